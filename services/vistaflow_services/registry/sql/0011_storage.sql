-- What jobs wait for is kept as it is: names are short, and to pack a thousand of them takes longer
-- than to write them.
ALTER TABLE jobs ALTER COLUMN depends_on SET STORAGE EXTERNAL;
