//! The questions whose answers make a [`super::Catalog`].
//!
//! Each returns text columns alone, so a simple query will do, and none needs more than what
//! `public` may read. Run [`SESSION_SQL`] first; run the five in one REPEATABLE READ transaction,
//! or the rows may describe different moments. They work on a standby and, being about
//! catalogue tables, say the same there as on the primary once replay has caught up.

/// Makes the session fit for the other queries: with this search path no user's function can
/// stand in for a builtin, and view definitions come with every user name qualified.
pub const SESSION_SQL: &str = "SET search_path = pg_catalog";

/// One of the queries. [`super::CatalogBuilder::add_row`] takes its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogTable {
    /// [`FUNCTIONS_SQL`].
    Functions,
    /// [`RELATIONS_SQL`].
    Relations,
    /// [`DEPENDENTS_SQL`].
    Dependents,
    /// [`OPERATORS_SQL`].
    Operators,
    /// [`TYPES_SQL`].
    Types,
}

impl CatalogTable {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Functions, Self::Relations, Self::Dependents, Self::Operators, Self::Types];

    /// Its query.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Functions => FUNCTIONS_SQL,
            Self::Relations => RELATIONS_SQL,
            Self::Dependents => DEPENDENTS_SQL,
            Self::Operators => OPERATORS_SQL,
            Self::Types => TYPES_SQL,
        }
    }

    /// How many columns its rows have.
    pub fn columns(self) -> usize {
        match self {
            Self::Functions | Self::Relations | Self::Types => 4,
            Self::Dependents | Self::Operators => 3,
        }
    }
}

/// Functions: schema, name, volatility, whether one takes a row. An aggregate is declared
/// immutable whatever it is made of: its volatility is the worst of its parts. An argument left
/// out is made by its default, which may call anything, so a default with a parenthesis counts as
/// volatile. (`max` works: i < s < v.)
pub const FUNCTIONS_SQL: &str = "
SELECT n.nspname::text, p.proname::text,
       max(CASE WHEN p.prokind = 'p' THEN 'v'
                WHEN p.oid >= 16384 AND pg_get_expr(p.proargdefaults, 0) ~ '[(]' THEN 'v'
                WHEN a.aggfnoid IS NULL THEN p.provolatile::text
                ELSE coalesce((SELECT max(q.provolatile::text) FROM pg_proc q WHERE q.oid IN
                       (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn,
                        a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)), 'i') END),
       bool_or(EXISTS (SELECT 1 FROM pg_type t
                       WHERE t.oid = ANY (p.proargtypes) AND t.typtype IN ('c', 'p', 'd')))::text
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
LEFT JOIN pg_aggregate a ON a.aggfnoid = p.oid
WHERE n.nspname !~ '^pg_(temp|toast)'
GROUP BY 1, 2 ORDER BY 1, 2";

/// Relations: schema, name, kind, persistence. One with a descendant (a partition, a child) that
/// is unlogged or foreign is given as unlogged: reading the parent reads the child.
pub const RELATIONS_SQL: &str = "
WITH RECURSIVE tainted(oid) AS (
    SELECT i.inhparent FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE c.relpersistence = 'u' OR c.relkind = 'f'
  UNION
    SELECT i.inhparent FROM tainted JOIN pg_inherits i ON i.inhrelid = tainted.oid
)
SELECT n.nspname::text, c.relname::text, c.relkind::text,
       CASE WHEN c.oid IN (SELECT oid FROM tainted) THEN 'u' ELSE c.relpersistence::text END
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_(temp|toast)'
ORDER BY 1, 2";

/// What reading a relation runs: schema, name, and SQL text: the definition of a user's view, or
/// the condition of a row security policy as the query `SELECT (condition)`.
pub const DEPENDENTS_SQL: &str = "
SELECT n.nspname::text, c.relname::text, pg_get_viewdef(c.oid)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'v' AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
UNION ALL
SELECT n.nspname::text, c.relname::text, 'SELECT (' || pg_get_expr(p.polqual, p.polrelid) || ')'
FROM pg_policy p
JOIN pg_class c ON c.oid = p.polrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.polqual IS NOT NULL AND p.polcmd IN ('r', '*') AND c.relpersistence <> 't'
ORDER BY 1, 2, 3";

/// Operators: schema, name, volatility of the function behind.
pub const OPERATORS_SQL: &str = "
SELECT n.nspname::text, o.oprname::text, max(p.provolatile::text)
FROM pg_operator o
JOIN pg_namespace n ON n.oid = o.oprnamespace
JOIN pg_proc p ON p.oid = o.oprcode
GROUP BY 1, 2 ORDER BY 1, 2";

/// Types: schema, name, fact, detail. The facts are `type` (it exists), `volatile` (a volatile
/// function reads, writes or explicitly makes it), `implicit` (a volatile function makes it
/// without being asked) and `check` (a domain's condition, its own or of a domain below it; the
/// detail is the expression).
pub const TYPES_SQL: &str = "
WITH RECURSIVE layer(domain, typid) AS (
    SELECT oid, oid FROM pg_type WHERE typtype = 'd'
  UNION
    SELECT layer.domain, t.typbasetype FROM layer JOIN pg_type t ON t.oid = layer.typid
    WHERE t.typbasetype <> 0
), fact(typid, fact, detail) AS (
    SELECT t.oid, 'type', '' FROM pg_type t
    WHERE NOT (t.typelem <> 0 AND t.typcategory = 'A')
  UNION ALL
    SELECT DISTINCT t.oid, 'volatile', '' FROM pg_type t
    JOIN pg_proc p ON p.oid IN (t.typinput, t.typoutput, t.typreceive, t.typsend,
                                t.typmodin, t.typmodout)
    WHERE p.provolatile = 'v'
  UNION ALL
    SELECT DISTINCT c.casttarget, CASE c.castcontext WHEN 'e' THEN 'volatile' ELSE 'implicit' END,
           ''
    FROM pg_cast c JOIN pg_proc p ON p.oid = c.castfunc
    WHERE p.provolatile = 'v'
  UNION ALL
    SELECT layer.domain, 'check', pg_get_expr(k.conbin, 0)
    FROM layer JOIN pg_constraint k ON k.contypid = layer.typid
    WHERE k.contype = 'c'
)
SELECT n.nspname::text, t.typname::text, fact.fact, fact.detail
FROM fact
JOIN pg_type t ON t.oid = fact.typid
JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname !~ '^pg_(temp|toast)'
ORDER BY 1, 2, 3, 4";

/// One row, one text column that differs whenever the answers above may: poll it, and build the
/// catalogue anew when it changes. Each part is a count and a sum of hashes, which any insert,
/// update or delete moves. The hash is over `(oid, xmin)`, but for `pg_class`, whose rows also
/// change with every TRUNCATE, it is over the columns that matter. (Freezing leaves `xmin` as it
/// was; sums do not care about order, so no sort is needed.)
pub const FINGERPRINT_SQL: &str = "
SELECT concat_ws('/',
  (SELECT concat(count(*), ':', sum(hashtextextended(concat_ws(',', oid, xmin), 0)))
   FROM pg_proc WHERE oid >= 16384),
  (SELECT concat(count(*), ':', sum(hashtextextended(concat_ws(',', oid, relname, relnamespace,
                                    relkind, relpersistence), 0)))
   FROM pg_class
   WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relpersistence <> 't'),
  (SELECT concat(count(*), ':', sum(hashtextextended(concat_ws(',', inhrelid, inhparent), 0)))
   FROM pg_inherits),
  (SELECT concat(count(*), ':', sum(hashtextextended(concat_ws(',', oid, nspname), 0)))
   FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast)'),
  (SELECT concat(count(*), ':', sum(hashtextextended(concat_ws(',', r.oid, r.xmin), 0)))
   FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
   WHERE r.oid >= 16384 AND c.relpersistence <> 't'),
  (SELECT concat(count(*), ':', sum(hashtextextended(concat_ws(',', oid, xmin), 0)))
   FROM pg_policy),
  (SELECT concat(count(*), ':', sum(hashtextextended(concat_ws(',', oid, xmin), 0)))
   FROM pg_operator WHERE oid >= 16384),
  (SELECT concat(count(*), ':', sum(hashtextextended(concat_ws(',', oid, xmin), 0)))
   FROM pg_cast WHERE oid >= 16384),
  (SELECT concat(count(*), ':', sum(hashtextextended(concat_ws(',', oid, xmin), 0)))
   FROM pg_type WHERE oid >= 16384 AND typrelid = 0 AND typcategory <> 'A'),
  (SELECT concat(count(*), ':', sum(hashtextextended(concat_ws(',', oid, xmin), 0)))
   FROM pg_constraint WHERE contypid <> 0))";
