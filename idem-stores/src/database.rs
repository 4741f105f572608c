//! The databases that `sqlx` opens.

/// Marks what is implemented for types of `sqlx` that are not this crate's own: its pools open
/// the transactions of [`Operation::transaction`](idem_core::Operation::transaction).
#[derive(Clone, Copy, Debug)]
pub struct Sqlx;

/// What tells a pool's database from every other: the pool itself, because what it does with each
/// new connection may lead elsewhere, and what it connects to, because when a pool is gone another
/// one may be where it was.
pub(crate) fn place_of<DB: sqlx::Database>(
    pool: &sqlx::Pool<DB>,
    target: impl std::fmt::Debug,
) -> Vec<u8> {
    format!("{:p} {target:?}", std::ptr::from_ref(pool.options())).into_bytes()
}
