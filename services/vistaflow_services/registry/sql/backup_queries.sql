-- Queries of the check of a restored schema.

-- name: schema_objects
-- What a schema holds beside rows and the partitions of the log, one line an object. The search path
-- is the schema, so that no definition names it. Of constraints and views only the names: what
-- defines them is written another way after every restore.
SELECT 'column ' || relname || '.' || attname || ' ' || format_type(atttypid, atttypmod)
       || CASE WHEN attnotnull THEN ' not null' ELSE '' END
       || coalesce(' default ' || pg_get_expr(adbin, adrelid), '')
  FROM pg_class
  JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
  LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE relnamespace = %(schema)s::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
   AND NOT relispartition
UNION ALL
SELECT 'sequence ' || relname
  FROM pg_class WHERE relnamespace = %(schema)s::regnamespace AND relkind = 'S'
UNION ALL
SELECT 'constraint ' || conname || ' of ' || relname || ' ' || contype::text
  FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
 WHERE relnamespace = %(schema)s::regnamespace AND NOT relispartition AND contype <> 'n'
UNION ALL
SELECT 'index ' || pg_get_indexdef(indexrelid, 0, true)
  FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
 WHERE relnamespace = %(schema)s::regnamespace AND NOT relispartition
UNION ALL
SELECT 'trigger ' || tgenabled::text || ' ' || pg_get_triggerdef(pg_trigger.oid, true)
  FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
 WHERE relnamespace = %(schema)s::regnamespace AND NOT relispartition AND NOT tgisinternal
UNION ALL
SELECT 'function ' || proname || '(' || pg_get_function_identity_arguments(oid) || ') '
       || provolatile::text || ' ' || md5(prosrc)
  FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace
