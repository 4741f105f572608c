//! A statement for many rows at once.

use std::sync::{Arc, OnceLock};

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Sqlite};

/// The most rows of one statement.
pub(in crate::sqlite) const MANY: usize = 64;

/// There is a text for each of these, prepared once. A row that is given no values is NULL
/// throughout, and the statement passes over it.
const SIZES: [usize; 3] = [1, 8, MANY];

pub(super) struct Many {
    one: &'static str,
    row: &'static str,
    texts: OnceLock<[Arc<str>; SIZES.len()]>,
}

impl Many {
    /// From the statement for one row, which it is written as.
    pub(super) const fn new(one: &'static str, row: &'static str) -> Self {
        Self {
            one,
            row,
            texts: OnceLock::new(),
        }
    }

    /// The statement for so many rows.
    pub(super) fn of(&self, rows: usize) -> Query<'static, Sqlite, SqliteArguments> {
        let texts = self.texts.get_or_init(|| {
            SIZES.map(|size| {
                let rows = vec![self.row; size].join(", ");
                self.one.replace(self.row, &rows).into()
            })
        });
        let size = SIZES.iter().position(|size| rows <= *size);
        let text = &texts[size.unwrap_or(SIZES.len() - 1)];
        sqlx::query(AssertSqlSafe(Arc::clone(text)))
    }
}
