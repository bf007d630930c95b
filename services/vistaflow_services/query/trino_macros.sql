-- Functions of Trino in DuckDB's SQL, where DuckDB's own differ or are missing. Those whose type
-- follows from their argument's have one form a type. A query's process creates what the query
-- calls; `duckdb_functions.py` writes the calls.

create macro trino_date_trunc
    (unit, x DATE) as cast(date_trunc(unit, x) as DATE),
    (unit, x TIMESTAMP) as date_trunc(unit, x),
    (unit, x TIMESTAMPTZ) as date_trunc(unit, x);

create macro trino_plus
    (x DATE, i) as cast(x + i as DATE),
    (x TIMESTAMP, i) as x + i,
    (x TIMESTAMPTZ, i) as x + i,
    (x TIME, i) as x + i,
    (x INTERVAL, i) as x + i;

create macro trino_minus
    (x DATE, i) as cast(x - i as DATE),
    (x TIMESTAMP, i) as x - i,
    (x TIMESTAMPTZ, i) as x - i,
    (x TIME, i) as x - i,
    (x INTERVAL, i) as x - i;

create macro trino_sequence
    (a BIGINT, b BIGINT) as generate_series(a, b, case when a <= b then 1 else -1 end),
    (a BIGINT, b BIGINT, step BIGINT) as generate_series(a, b, step),
    (a DATE, b DATE) as cast(generate_series(a, b, interval 1 day) as DATE[]),
    (a DATE, b DATE, step INTERVAL) as cast(generate_series(a, b, step) as DATE[]),
    (a TIMESTAMP, b TIMESTAMP, step INTERVAL) as generate_series(a, b, step);

create macro trino_repeat(x, n) as list_transform(range(n), lambda _i: x);

create macro trino_slice(a, first, n) as
    case when first > 0 then list_slice(a, first, first + n - 1)
         else list_slice(a, len(a) + first + 1, len(a) + first + n) end;

create macro trino_array_position(a, x) as
    case when a is not null and x is not null then cast(coalesce(list_position(a, x), 0) as BIGINT) end;

create macro trino_array_distinct(a) as list_filter(a, lambda _x, _i: list_position(a, _x) = _i);

create macro trino_array_union(a, b) as
    list_filter(a || b, lambda _x, _i: list_position(a || b, _x) = _i);

create macro trino_array_intersect(a, b) as
    list_filter(a, lambda _x, _i: list_position(a, _x) = _i and list_position(b, _x) is not null);

create macro trino_array_except(a, b) as
    list_filter(a, lambda _x, _i: list_position(a, _x) = _i and list_position(b, _x) is null);

create macro trino_any_match(a, f) as
    case when a is not null then coalesce(list_bool_or(list_transform(a, f)), false) end;

create macro trino_all_match(a, f) as
    case when a is not null then coalesce(list_bool_and(list_transform(a, f)), true) end;

create macro trino_none_match(a, f) as
    case when a is not null then not coalesce(list_bool_or(list_transform(a, f)), false) end;

create macro trino_reduce(a, initial, merge, finish) as
    list_transform([list_reduce(a, merge, initial)], finish)[1];

create macro trino_map_agg(k, v) as map(list(k), list(v));

create macro trino_every(x) as bool_and(x);

create macro trino_codepoint(x) as unicode(x);

create macro trino_bitwise_left_shift(x, n) as x << n;

create macro trino_bitwise_right_shift(x, n) as x >> n;

create macro trino_infinity() as cast('inf' as DOUBLE);

create macro trino_nan() as cast('nan' as DOUBLE);

create macro trino_bit_count(x, n) as cast(bit_count(cast(x as BIGINT)) as BIGINT);

create macro trino_width_bucket(x, low, high, n) as
    cast(case when x < low then 0 when x >= high then n + 1
         else floor((x - low) * n / cast(high - low as DOUBLE)) + 1 end as BIGINT);

create macro trino_normalize(x) as nfc_normalize(x);

create macro trino_with_timezone(x, zone) as timezone(zone, x);

create macro trino_regexp_extract(x, pattern, part) as
    case when regexp_matches(x, pattern) then regexp_extract(x, pattern, part) end;

create macro trino_split_part(x, separator, n) as
    case when n <= len(string_split(x, separator)) then split_part(x, separator, n) end;

create macro trino_is_finite(x) as isfinite(x);

create macro trino_is_infinite(x) as isinf(x);

create macro trino_hamming_distance(a, b) as hamming(a, b);

create macro trino_yow(x) as isoyear(x);

create macro trino_geometric_mean(x) as geomean(x);

create macro trino_arrays_overlap(a, b) as list_has_any(a, b);

create macro trino_skewness(x) as
    skewness(x) * (count(x) - 2) / sqrt(count(x) * (count(x) - 1));

create macro trino_to_iso8601(x DATE) as cast(x as VARCHAR);
