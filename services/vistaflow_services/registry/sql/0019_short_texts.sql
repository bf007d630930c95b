-- Names are searched for one or two letters by an index, too: in Korean that is a word.

CREATE FUNCTION name_grams(name text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
-- Every one, two and three letters that follow one another in a folded name. Letters are split first:
-- each substr() would count from the first letter on.
SELECT array_agg(a || b || c) || array_agg(a || b) || array_agg(a)
  FROM (SELECT a, coalesce(lead(a) OVER letters, '') AS b, coalesce(lead(a, 2) OVER letters, '') AS c
          FROM string_to_table(casefold(name COLLATE pg_catalog.pg_unicode_fast), NULL)
               WITH ORDINALITY AS split (a, place)
        WINDOW letters AS (ORDER BY place)) AS grams
$$;

CREATE FUNCTION part_grams(part text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
-- What to look up for a part of a name: every three letters of it, or all if it has fewer.
SELECT array_agg(DISTINCT substr(letters, place, 3))
  FROM (SELECT casefold(part COLLATE pg_catalog.pg_unicode_fast) AS letters) AS once
 CROSS JOIN LATERAL generate_series(1, greatest(1, length(letters) - 2)) AS place
$$;

-- For list_kits by a part of the name, in place of kits_folded_name of 0009_names. The function
-- folded_parts stays: replicas of the former version call it until they are restarted.
CREATE INDEX kits_grams ON kits USING gin (name_grams(name)) WITH (gin_pending_list_limit = 256);
DROP INDEX kits_folded_name;
