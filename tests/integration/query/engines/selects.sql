-- One SELECT of Trino's dialect a line. After `-- differs:` is why DuckDB's answer is another by
-- nature; such lines still run on both. Answers of Trino 476 are in `selects.json`.

-- arithmetic
select 7/2, -7/2, 7 % 3, -7 % 3, 7e0/2
select id/7, id % 7, -id/7 from reviews where id < 30 order by id
select stars/2, stars*1e0/2 from reviews where id between 10 and 20 order by id
select abs(-3), sign(-3), ceil(2.1), floor(-2.1), round(2.5e0), round(-2.5e0), round(2.567, 2), truncate(2.7e0)
select ceiling(score), floor(score), round(score, 1) from reviews where id < 12 order by id
select power(2, 10), sqrt(16), exp(0), ln(1), log10(1000), log2(8), log(3, 9), pi(), degrees(pi()), radians(180)
select mod(17, 5), mod(-17, 5), greatest(3, 1, 2), least(3, 1, 2), greatest(1, null), least('a', 'b')
select bitwise_and(12, 10), bitwise_or(12, 10), bitwise_xor(12, 10), bitwise_not(5), bitwise_left_shift(1, 4), bitwise_right_shift(256, 4)
select price * 2, price + 0.05, price - 1, -price from reviews where id < 8 order by id
select decimal '1.10' + 1, decimal '1.10' * decimal '2.5', cast(1.005 as decimal(10,2)), cast('12.345' as decimal(10,2))
select cast(2.5 as integer), cast(-2.5 as integer), cast(3.49e0 as integer), cast('42' as bigint), cast(true as integer)
select width_bucket(5, 0, 10, 4), is_nan(nan()), is_finite(1e0), is_infinite(infinity())
select 1e300 * 10, 0.1e0 + 0.2e0, cast(0.1 as double) = 0.1e0
select stars, count(*) / 3, sum(id) / count(*) from reviews where stars is not null group by stars order by stars
select 7.0/2
select 1.0/3 -- differs: a quotient of decimals is a decimal in Trino and a double in DuckDB
select cast(2.5e0 as integer) -- differs: DuckDB rounds halves of doubles to even

-- text
select 'a' || 'b', concat('a', 'b', 'c'), concat('a', null), 'x' || null
select length(body), upper(body), lower(body), reverse(body) from reviews where id < 12 order by id
select substr('hello', 2), substr('hello', 2, 3), substr('hello', -3), substring('hello' from 2 for 2)
select substr(body, 2, 4), strpos(body, ' '), position('리' in body) from reviews where id < 12 order by id
select trim('  a '), ltrim('  a '), rtrim('  a '), trim(both 'x' from 'xxaxx'), trim(leading 'x' from 'xa'), trim(trailing 'x' from 'ax')
select lpad('7', 3, '0'), rpad('ab', 5, 'xy'), replace('banana', 'an', 'AN'), replace('banana', 'an'), translate('abc', 'ab', 'xy')
select split('a,b,,c', ','), split_part('a,b,c', ',', 2), split('a,b', ',')[1], split_part('a,b', ',', 5)
select starts_with('hello', 'he'), 'hello' like 'h%o', 'hello' like 'H%', 'a_b' like 'a\_b' escape '\', 'ab' not like 'a%'
select name from users where name like '%김%' order by id
select name, length(name) from users where length(name) > 4 order by 1
select chr(65), codepoint('A'), chr(44032), codepoint('가'), levenshtein_distance('kitten', 'sitting'), hamming_distance('abc', 'abd')
select regexp_like(body, '[0-9]5'), regexp_extract(body, '[0-9]+'), regexp_extract(body, '(.)([0-9]+)', 2) from reviews where id < 16 order by id
select regexp_extract('abc', 'z'), regexp_replace('banana', 'a', 'o'), regexp_replace('banana', 'a'), regexp_extract_all('a1b22c333', '[0-9]+')
select regexp_replace('2024-03-05', '(\d+)-(\d+)-(\d+)', '$3/$2/$1'), regexp_count('banana', 'a'), regexp_split('a1b2c', '[0-9]')
select format('%s is %d', 'x', 3), concat_ws('-', 'a', null, 'b'), repeat('ab', 2), to_hex(to_utf8('한'))
select md5(to_utf8('a')), sha256(to_utf8('a')), to_base64(to_utf8('hello')), from_utf8(to_utf8('글'))
select normalize('é'), upper('àé'), lower('ÀÉ'), length('👍')
select upper('straße') -- differs: DuckDB has a capital letter for it
select coalesce(country, '없음'), nullif(country, 'KR') from users order by id limit 20
select max(name), min(name), count(distinct country) from users
select '한글' = '한글', 'a' < 'b', 'Z' < 'a', '가' < '나'
select 'it''s', '', length(''), '' = ' '
select cast(12 as varchar), cast(1.50 as varchar), cast(true as varchar), cast(date '2024-01-31' as varchar)
select cast(name as varchar(2)), cast('abcdef' as varchar(3)) from users order by id limit 3
select cast(1e0 as varchar), cast(0.1e0 as varchar) -- differs: Trino writes doubles as 1.0E0
select strpos('abcabc', 'c', 2) -- differs: DuckDB has no such argument and refuses the query
select soundex('Robert') -- differs: DuckDB has no such function and refuses the query

-- conditions
select case when stars > 3 then 'good' when stars is null then '?' else 'bad' end, count(*) from reviews group by 1 order by 1
select if(stars > 3, 'a', 'b'), if(stars > 3, 1) from reviews where id < 10 order by id
select case stars when 1 then 'one' when 2 then 'two' end from reviews where id < 10 order by id
select id from reviews where stars is null order by id limit 10
select id from reviews where stars is distinct from 3 and id < 20 order by id
select count(*) from reviews where stars in (1, 2) or price between 100 and 200
select count(*) from reviews where not (stars = 3) and flag
select count(*) from reviews where flag is null or flag = false
select count(*) from reviews where body like '%리뷰%' and id not in (1, 2, 3)
select true and null, true or null, not true, null = null, 1 <> 2
select try_cast('x' as integer), try_cast('12' as integer), try_cast('2024-13-01' as date), try_cast('1.5' as double), try_cast(300 as tinyint)
select try(1/0), try(cast('x' as integer)), coalesce(try_cast('x' as bigint), -1)
select nullif(1, 1), nullif(1, 2), coalesce(null, null, 3), coalesce(stars, 0) from reviews where id < 10 order by id
select 1 in (select stars from reviews), exists(select 1 from users where country = 'KR'), (select max(id) from users)
select 1/0 -- differs: an error of both, in other words
select cast('x' as integer) -- differs: an error of both, in other words
select 9223372036854775807 + 1 -- differs: an error of both, in other words

-- dates and times
select year(day), month(day), day(day), quarter(day), week(day), day_of_week(day), day_of_year(day) from reviews where id < 15 order by id
select extract(year from day), extract(month from day), extract(day from ts), extract(hour from ts), extract(minute from ts) from reviews where id < 8 order by id
select extract(dow from day), extract(day_of_week from day), extract(doy from day), extract(week from day), extract(yow from day) from reviews where id < 8 order by id
select year_of_week(date '2024-12-30'), week(date '2024-12-30'), dow(date '2024-03-10'), doy(date '2024-03-10'), yow(date '2021-01-01')
select date_trunc('month', day), date_trunc('year', day), date_trunc('week', day), date_trunc('quarter', day) from reviews where id < 10 order by id
select date_trunc('hour', ts), date_trunc('day', ts), date_trunc('minute', ts) from reviews where id < 8 order by id
select date_trunc('month', day) m, count(*) n from reviews group by 1 order by 1
select date_add('day', 3, day), date_add('month', 1, day), date_add('year', -1, day), date_add('week', 2, day) from reviews where id < 8 order by id
select date_add('hour', 5, ts), date_add('minute', -90, ts), date_add('second', id, ts) from reviews where id < 8 order by id
select date_diff('day', date '2024-01-01', day), date_diff('month', date '2023-01-31', day), date_diff('week', date '2023-01-01', day) from reviews where id < 8 order by id
select date_diff('hour', timestamp '2024-01-01 00:59:00', timestamp '2024-01-01 01:00:00'), date_diff('year', date '2020-02-29', date '2024-02-28'), date_diff('second', timestamp '2024-01-01 00:00:00', timestamp '2024-01-01 00:01:30')
select date '2024-01-31' + interval '1' month, date '2024-03-31' - interval '1' month, date '2024-01-31' + interval '1' day, timestamp '2024-01-01 00:00:00' + interval '90' minute
select day + interval '7' day, ts - interval '1' hour, ts + interval '2' day from reviews where id < 8 order by id
select last_day_of_month(date '2024-02-10'), last_day_of_month(day) from reviews where id < 5 order by id
select date_format(ts, '%Y-%m-%d %H:%i:%s'), date_format(day, '%Y/%m') from reviews where id < 6 order by id
select date_parse('2024-03-05 13:04:05', '%Y-%m-%d %H:%i:%s'), date_parse('05/03/2024', '%d/%m/%Y')
select from_unixtime(1700000000), to_unixtime(timestamp '2024-01-01 00:00:00 UTC'), from_iso8601_date('2024-02-29'), from_iso8601_timestamp('2024-01-01T09:00:00+09:00')
select hour(ts), minute(ts), second(ts) from reviews where id < 5 order by id
select min(day), max(day), min(ts), max(ts), count(distinct day) from reviews
select day from reviews where day >= date '2024-02-01' order by day, id limit 5
select count(*) from reviews where ts between timestamp '2023-11-05 00:00:00' and timestamp '2023-12-05 00:00:00'
select cast('2024-02-29' as date), date('2024-02-29'), cast(date '2024-02-29' as timestamp), cast(timestamp '2024-02-29 12:34:56' as date)
select date '2024-01-01' < date '2024-01-02', date '2024-01-01' = date '2024-01-01', date '2024-01-01' < timestamp '2024-01-01 00:00:01'
select timestamp '2024-01-01 12:00:00.123456', timestamp '2024-01-01 12:00:00.5', timestamp '2024-01-01 09:00:00 Asia/Seoul'
select to_iso8601(day) from reviews where id < 4 order by id
select timestamp '2024-01-01 00:00:00 UTC' at time zone 'Asia/Seoul' -- differs: DuckDB's times have no zone of their own, it gives the local time
select date '2024-03-01' - date '2024-02-01' -- differs: Trino gives an interval, DuckDB a number of days
select cast(timestamp '2024-01-01 00:00:00.000' as varchar) -- differs: Trino writes the digits of the type

-- aggregates
select count(*), count(stars), count(distinct stars), sum(stars), min(stars), max(stars), avg(stars) from reviews
select stars, count(*), sum(price), min(price), max(price), avg(score) from reviews group by stars order by stars nulls first
select user_id, count(*) n from reviews group by user_id having count(*) > 12 order by n desc, user_id
select count_if(stars > 3), bool_and(id > 0), bool_or(stars = 5), every(id > 0), sum(if(flag, 1, 0)) from reviews
select sum(stars) filter (where year = 2024), count(*) filter (where flag), avg(score) filter (where stars = 5) from reviews
select stddev(score), variance(score), stddev_pop(score), var_pop(score), stddev_samp(stars), var_samp(stars) from reviews
select corr(score, stars), covar_pop(score, stars), covar_samp(score, stars), regr_slope(score, stars), regr_intercept(score, stars) from reviews
select skewness(score), kurtosis(score), geometric_mean(score) from reviews where score > 0
select max_by(id, score), min_by(id, score), max_by(body, id) from reviews
select array_agg(id order by id desc), array_agg(stars order by id) from reviews where id < 8
select listagg(name, ',') within group (order by id), listagg(country, '|') within group (order by id) from users where id < 6
select map_agg(id, name) from users where id < 4
select arbitrary(1), any_value(2), count(*) from users
select year, month, count(*) from reviews group by year, month order by year, month
select year, month, count(*) from reviews group by rollup (year, month) order by year nulls last, month nulls last
select year, stars, count(*) from reviews group by cube (year, stars) order by 1 nulls last, 2 nulls last, 3
select year, month, grouping(year, month), count(*) from reviews group by grouping sets ((year), (month), ()) order by 1, 2, 3
select stars, grouping(stars), sum(id) from reviews group by rollup (stars) order by 2, 1
select count(distinct user_id), count(distinct stars) from reviews
select distinct stars from reviews order by stars
select distinct year, month from reviews order by 1 desc, 2 desc
select sum(distinct stars), avg(distinct stars) from reviews
select max(stars) - min(stars), sum(price) / count(*) > 1 from reviews
select bitwise_and_agg(id), bitwise_or_agg(id) from reviews
select count(*), sum(id) from reviews where id < 0
select stars from reviews group by stars having sum(id) > 10000 order by stars
select approx_distinct(user_id) -  approx_distinct(user_id) from reviews
select avg(price) from reviews -- differs: Trino's average of decimals is a decimal
select approx_percentile(score, 0.5) from reviews -- differs: both are approximate

-- windows
select id, row_number() over (partition by stars order by id) from reviews where id < 25 order by id
select id, rank() over (order by stars), dense_rank() over (order by stars) from reviews where id < 25 order by id
select id, lag(stars) over (order by id), lead(stars) over (order by id), lag(stars, 2, -1) over (order by id) from reviews where id < 15 order by id
select id, sum(stars) over (order by id), avg(stars) over (order by id rows between 2 preceding and current row) from reviews where id < 20 order by id
select id, first_value(stars) over (partition by user_id order by id), last_value(stars) over (partition by user_id order by id rows between unbounded preceding and unbounded following) from reviews where id < 40 order by id
select id, ntile(4) over (order by id), percent_rank() over (order by stars, id), cume_dist() over (order by stars, id) from reviews where id < 20 order by id
select id, nth_value(id, 2) over (partition by user_id order by id) from reviews where id < 60 order by id
select id, count(*) over (partition by stars), max(score) over (partition by stars) from reviews where id < 20 order by id
select id, sum(id) over w, min(id) over w from reviews where id < 20 window w as (partition by year order by id) order by id
select * from (select id, row_number() over (partition by user_id order by score desc, id) k from reviews) where k = 1 order by id limit 20
select id, sum(stars) over (order by day range between interval '3' day preceding and current row) from reviews where id < 20 order by id
select id, lag(stars) ignore nulls over (order by id) from reviews where id < 20 order by id
select day, sum(count(*)) over (order by day) from reviews group by day order by day limit 20
select id, stars - avg(stars) over () > 0 from reviews where id < 10 order by id

-- joins
select r.id, u.name from reviews r join users u on r.user_id = u.id where r.id < 20 order by r.id
select r.id, u.name from reviews r left join users u on r.user_id = u.id where r.id < 20 order by r.id
select u.id, count(r.id) from users u left join reviews r on r.user_id = u.id group by u.id order by u.id
select u.id, r.id from reviews r right join users u on r.user_id = u.id and r.id < 10 order by 1, 2 nulls first
select coalesce(u.id, -1), r.user_id, count(*) from reviews r full join users u on r.user_id = u.id group by 1, 2 order by 1, 2 nulls last
select count(*) from users a cross join users b
select a.id, b.id from users a, users b where a.id < b.id and b.id < 5 order by 1, 2
select user_id, count(*) from reviews join users on user_id = users.id group by user_id order by 1 limit 10
select reviews.id, users.country from reviews join users on reviews.user_id = users.id where users.country = 'KR' order by 1 limit 10
select id, n from users join (select user_id id, count(*) n from reviews group by 1) using (id) order by id
select u.name from users u where exists (select 1 from reviews r where r.user_id = u.id and r.stars = 5) order by u.id
select u.name from users u where not exists (select 1 from reviews r where r.user_id = u.id) order by u.id
select name from users where id in (select user_id from reviews group by user_id having count(*) > 12) order by id
select u.id, (select max(stars) from reviews r where r.user_id = u.id) from users u order by u.id limit 15
select count(*) from reviews a join reviews b on a.user_id = b.user_id and a.id < b.id
select u.country, r.year, count(*) from reviews r join users u on u.id = r.user_id group by 1, 2 order by 1 nulls last, 2
select * from (select id from users where id < 4) a natural join (select id, name from users) b order by id -- differs: Trino has no natural joins
select o."번호", u.name from "주문" o join users u on o."고객" = u.id order by o."번호" limit 10
select a.id, x.top from users a cross join lateral (select max(id) top from reviews r where r.user_id = a.id) x order by a.id limit 10
select count(*) from reviews r join users u on r.user_id = u.id join "주문" o on o."고객" = u.id

-- WITH and set operations
with x as (select * from reviews where stars = 5) select count(*), max(id) from x
with a as (select id from users), b as (select id from a where id < 5) select * from b order by id
with reviews as (select id, name from users) select count(*) from reviews
with x(a, b) as (select id, stars from reviews where id < 5) select a, b from x order by a
with recursive t(n) as (select 1 union all select n + 1 from t where n < 10) select n, n * n from t order by n
with recursive f(a, b) as (select 0, 1 union all select b, a + b from f where b < 20) select a from f order by a
with x as (with y as (select 1 a) select * from y) select * from x
select id from users where id < 3 union select id from users where id < 5 order by id
select 1 a union all select 1 union all select 2 order by a
select id from users where id < 6 intersect select id from users where id > 3 order by id
select id from users where id < 6 except select id from users where id > 3 order by id
select * from (values (1, 'a'), (2, 'b')) t(a, b) order by a
select a + 1 from (values 1, 2, 3) t(a) order by 1
select 1 union all select 2 intersect select 2
(select id from users order by id limit 2) union all (select id from users order by id desc limit 2)
select count(*) from (select id from users union all select id from users)
with x as (select 1 id) select x.id, u.name from x join users u on x.id = u.id

-- order, limit, offset
select id from reviews order by id limit 5
select id from reviews order by id offset 10 limit 5
select id from reviews order by id desc fetch first 3 rows only
select id from reviews order by stars, id limit 10
select id from reviews order by stars desc nulls last, id limit 10
select id from reviews order by stars nulls first, id limit 10
select id, stars from reviews order by 2 desc, 1 limit 7
select id from users order by id limit all
select id from users order by id offset 45
select * from (select id from reviews order by id limit 20) t order by id desc limit 3
select stars s, count(*) c from reviews group by stars order by c desc, s limit 3
select id from reviews where id > 100000 order by id limit 5
select name from users order by lower(name), id limit 10
select id from reviews limit 0

-- nested
select array[1, 2, 3], array[1, 2, 3][2], cardinality(array[1, 2]), element_at(array[1, 2], 5), element_at(array[1, 2], -1)
select id, tags, cardinality(tags), element_at(tags, 1), contains(tags, 'a') from reviews where id < 12 order by id
select array_join(tags, ','), array_join(array['a', null, 'b'], '-'), array_join(array['a', null], '-', '?') from reviews where id < 5 order by id
select array_distinct(array[3, 1, 3, 2]), array_sort(array[3, 1, null, 2]), array_max(array[1, 5]), array_min(array[1, 5]), array_position(array[5, 6], 6), array_position(array[5], 7)
select array_union(array[3, 1], array[1, 2]), array_intersect(array[3, 1, 2], array[2, 3]), array_except(array[3, 1, 2], array[1]), arrays_overlap(array[1], array[1, 2])
select array[1] || array[2, 3], concat(array[1], array[2]), flatten(array[array[1], array[2, 3]]), array_remove(array[1, 2, 1], 1), slice(array[1, 2, 3, 4], 2, 2), slice(array[1, 2, 3, 4], -2, 2)
select transform(array[1, 2], x -> x * 2), filter(array[1, 2, 3], x -> x > 1), any_match(array[1, 2], x -> x > 1), all_match(array[1, 2], x -> x > 1), none_match(array[1], x -> x > 1)
select reduce(array[1, 2, 3], 0, (s, x) -> s + x, s -> s * 10), zip_with(array[1, 2], array[3, 4], (x, y) -> x + y)
select sequence(1, 5), sequence(1, 10, 3), sequence(5, 1), sequence(date '2024-01-01', date '2024-01-03', interval '1' day)
select repeat(7, 3), repeat('ab', 2)
select id, tag from reviews cross join unnest(tags) as t(tag) where id < 12 order by id, tag
select id, tag, n from reviews cross join unnest(tags) with ordinality as t(tag, n) where id < 12 order by id, n
select n from unnest(sequence(1, 5)) as t(n) order by n
select a, b from unnest(array[1, 2], array['x', 'y']) as t(a, b) order by a
select a, b from unnest(array[1, 2, 3], array['x']) as t(a, b) order by a
select k, v from unnest(map(array['a', 'b'], array[1, 2])) as t(k, v) order by k
select id, k, v from users cross join unnest(attrs) as t(k, v) where id < 6 order by id, k
select tag, count(*) from reviews cross join unnest(tags) as t(tag) group by tag order by tag
select map(array['a', 'b'], array[1, 2]), map(array['a'], array[1])['a'], element_at(map(array['a'], array[1]), 'z')
select map_keys(attrs), map_values(attrs), element_at(attrs, 'b') from users where id < 6 order by id
select map_filter(map(array['a', 'b'], array[1, 2]), (k, v) -> v > 1), transform_values(map(array['a'], array[1]), (k, v) -> v + 1), map_concat(map(array['a'], array[1]), map(array['b'], array[2]))
select place.city, place.zip from users where id < 6 order by id
select u.place.city, count(*) from users u group by 1 order by 1 nulls last
select users.place from users where id < 4 order by id
select cast(row(1, 'a') as row(x integer, y varchar)), cast(row(1, 'a') as row(x integer, y varchar)).y
select array_agg(distinct stars order by stars) from reviews where stars is not null
select cardinality(array_agg(id)) from reviews
select map_entries(map(array['a'], array[1])), map_from_entries(array[row('a', 1)])
select array[array[1, 2], array[3]], array[row(1, 'a'), row(2, 'b')]
select json_extract_scalar('{"a": {"b": 1}}', '$.a.b'), json_extract_scalar('{"a": "x"}', '$.a'), json_array_length('[1, 2]')
select array[1, 2][3] -- differs: an error in Trino, null in DuckDB
select cardinality(map(array['a'], array[1])) -- differs: DuckDB's function is for arrays, write cardinality(map_keys(m))
select typeof(1) -- differs: the names of types

-- names
select "번호", "금액", "메모" from "주문" order by "번호" limit 5
select "고객" as "손님", sum("금액") "합계" from "주문" group by "고객" order by 1 limit 5
select lake.main."주문"."번호" from lake.main."주문" order by 1 limit 3
select "주문"."번호" from lake.main."주문" order by 1 limit 3
select ID, Name from USERS order by iD limit 3
select u.* from users u order by id limit 2
select reviews.stars, reviews.id from reviews order by reviews.id limit 3
select id as "select", name as "a b" from users order by "select" limit 3
select a."한 글" from (select 1 as "한 글") a
select 1 as x, 'y' as "Y z"
select count(*) from reviews -- a comment with 'quotes" and ; in it
select /* one */ 1 /* two */ + /* three */ 1

-- partitions
select year, month, min(id), max(id) from reviews where year = 2024 group by 1, 2 order by 1, 2
select count(*) from reviews where year = 2023 and month in (11, 12)
select count(*) from reviews where year * 100 + month >= 202312
select id from reviews where year = 2024 and month = 2 order by id limit 3
select year from reviews where year > 2024
