//! The databases that `sqlx` opens.

/// Marks implementations for types of `sqlx`, which are not this crate's own: its pools open the
/// transactions of [`Operation::transaction`](idem_core::Operation::transaction).
#[derive(Clone, Copy, Debug)]
pub struct Sqlx;

/// Bytes that tell a pool's database from every other. They hold the address of the pool's options,
/// because a pool may lead each new connection elsewhere, and what the pool connects to, because another
/// pool may later have the same address.
pub(crate) fn database_id<DB: sqlx::Database>(
    pool: &sqlx::Pool<DB>,
    target: impl std::fmt::Debug,
) -> Vec<u8> {
    format!("{:p} {target:?}", std::ptr::from_ref(pool.options())).into_bytes()
}
