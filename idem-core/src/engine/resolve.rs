//! What an operator does with a record: looks at it, and resolves one whose attempt crashed.

use std::time::Duration;

use super::handle::Engine;
use super::operation::Operation;
use super::settlement::Settlement;
use crate::call::Call;
use crate::error::Error;
use crate::key::KeyPart;
use crate::listing::{Forgotten, Listing, Page, RecordState, Seen};
use crate::outcome::Verdict;
use crate::record::{Change, Claim, Claimed, Inspection, Lease, OnCrash, Phase, RecordId};

/// What [`Operation::resolve`] did, or why it did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Resolution {
    /// The record is as the verdict says.
    Resolved,
    /// There is no such record: it was freed or forgotten, or its key, scope, operation name or
    /// namespace is another.
    NoRecord,
    /// An attempt is running, and nothing is to be resolved.
    StillRunning {
        /// What is left of its lease.
        lease_left: Duration,
    },
    /// The record is finished, and its outcome stays.
    Finished,
    /// It was claimed, freed or resolved by somebody else meanwhile.
    ChangedMeanwhile,
}

/// What [`Engine::revoke`] did, or why it did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Revocation {
    /// The attempt holds the record no more, which is as after a crash.
    Revoked,
    /// This attempt does not hold the record: it has ended, or another one is the newest.
    NotHeld,
    /// The store has no [`Maintenance`](crate::Maintenance), and cannot be asked for this.
    NotOffered,
}

impl Engine {
    /// One page of the store's records, of every operation and namespace: see [`Listing`].
    ///
    /// # Errors
    /// [`Error::Store`] when the store cannot answer.
    pub async fn list(&self, listing: &Listing) -> Result<Page, Error> {
        let page = self.store().list(listing);
        Ok(self.store_call("", "list", page).await?)
    }

    /// Takes the lease from the attempt with this number, however long it still holds, so that the record
    /// can be [resolved](Operation::resolve_attempt). Its outcome is not stored any more. Its body goes
    /// on until it ends by itself, and a retry can run beside it.
    ///
    /// # Errors
    /// [`Error::Store`] when the store cannot answer: then it is revoked or not.
    pub async fn revoke(&self, id: &RecordId, attempt: u32) -> Result<Revocation, Error> {
        let Some(store) = self.store().maintenance() else {
            return Ok(Revocation::NotOffered);
        };
        let revoked = self.store_call("", "revoke", store.revoke(id, attempt));
        Ok(match revoked.await? {
            Change::Applied => Revocation::Revoked,
            Change::LeaseLost => Revocation::NotHeld,
        })
    }

    /// Forgets a record that no lease protects, whatever it says: a retry is a first call then. Finished
    /// steps and a stored outcome are lost.
    ///
    /// This process keeps what it has [cached](crate::EngineBuilder) of the record, and so does every
    /// other.
    ///
    /// # Errors
    /// [`Error::Store`] when the store cannot answer: then it is forgotten or not.
    pub async fn forget(&self, id: &RecordId) -> Result<Forgotten, Error> {
        let forgotten = self.store().forget(id);
        Ok(self.store_call("", "forget", forgotten).await?)
    }
}

impl Engine {
    /// [`forget`](Self::forget) for who has looked at the record, and decided by what was there: one that
    /// is not as it was seen any more stays ([`Forgotten::NotAsSeen`]). The store decides in one step,
    /// where it has [`Maintenance`](crate::Maintenance); another one is looked at just before.
    ///
    /// # Errors
    /// As [`forget`](Self::forget).
    pub async fn forget_seen(&self, id: &RecordId, seen: Seen) -> Result<Forgotten, Error> {
        if let Some(store) = self.store().maintenance() {
            let forgotten = store.forget_seen(id, seen);
            return Ok(self.store_call("", "forget", forgotten).await?);
        }
        match self.operation("").inspect_record(id).await? {
            Some(found) if Seen::of(&found) != seen => Ok(match found.phase {
                Phase::Running {
                    lease_left: Some(lease_left),
                } => Forgotten::Running { lease_left },
                _ => Forgotten::NotAsSeen,
            }),
            _ => self.forget(id).await,
        }
    }
}

impl Operation {
    /// The record under `key` as it stands in the store. The key is as the operation knows it; one
    /// that a client has sent in a header is read by `idem::http::key_as_sent`.
    ///
    /// # Errors
    /// [`Error::Key`] and [`Error::Scope`] when the key or the scope is not acceptable,
    /// [`Error::Store`] when the store cannot answer.
    pub async fn inspect<K: KeyPart + ?Sized>(&self, key: &K) -> Result<Option<Inspection>, Error> {
        self.inspect_record(&self.record_id(key)?).await
    }

    /// [`inspect`](Self::inspect) for a record whose id is known, from a log line for example.
    ///
    /// # Errors
    /// [`Error::Store`] when the store cannot answer.
    pub async fn inspect_record(&self, id: &RecordId) -> Result<Option<Inspection>, Error> {
        let engine = &self.engine;
        let found = engine.store().inspect(id);
        Ok(engine.store_call(self.name(), "inspect", found).await?)
    }

    /// Resolves by hand a record whose attempt crashed or is suspended, for operations that refuse to run
    /// again: [`Verdict::Released`] says that nothing happened, frees the key and forgets finished steps,
    /// [`Verdict::Final`] stores what did happen (`idem::http::outcome_of` makes an outcome of an
    /// HTTP response). [`Verdict::Crashed`] leaves it as it is.
    ///
    /// The one who resolves takes the next attempt's number, so that the crashed attempt can change
    /// nothing any more. Dropping this future may leave the record as after one more crash.
    ///
    /// # Errors
    /// [`Error::Policy`] when the rules promise nothing, [`Error::Key`] and [`Error::Scope`] when the
    /// key or the scope is not acceptable, [`Error::Store`] when the store cannot answer: then it may
    /// be resolved or not.
    pub async fn resolve<K: KeyPart + ?Sized>(
        &self,
        key: &K,
        verdict: Verdict,
    ) -> Result<Resolution, Error> {
        self.resolve_record(&self.record_id(key)?, verdict).await
    }

    /// [`resolve`](Self::resolve) for a record whose id is known, from a log line for example.
    ///
    /// # Errors
    /// [`Error::Policy`] when the rules promise nothing, [`Error::Store`] when the store cannot
    /// answer: then it may be resolved or not.
    pub async fn resolve_record(
        &self,
        id: &RecordId,
        verdict: Verdict,
    ) -> Result<Resolution, Error> {
        self.resolve_where(id, |_| true, verdict).await
    }

    /// [`resolve_record`](Self::resolve_record) for who has looked at the record, and decided by what was
    /// there: where another attempt is the newest now, it is [`Resolution::ChangedMeanwhile`].
    ///
    /// # Errors
    /// As [`resolve_record`](Self::resolve_record).
    pub async fn resolve_attempt(
        &self,
        id: &RecordId,
        attempt: u32,
        verdict: Verdict,
    ) -> Result<Resolution, Error> {
        self.resolve_where(id, |found| found.attempt == attempt, verdict)
            .await
    }

    async fn resolve_where(
        &self,
        id: &RecordId,
        is_meant: impl FnOnce(&Inspection) -> bool,
        verdict: Verdict,
    ) -> Result<Resolution, Error> {
        self.rules().check()?;
        let Some(found) = self.inspect_record(id).await? else {
            return Ok(Resolution::NoRecord);
        };
        if !is_meant(&found) {
            return Ok(Resolution::ChangedMeanwhile);
        }
        match found.phase {
            Phase::Running { lease_left: None } | Phase::Suspended => {}
            Phase::Running {
                lease_left: Some(lease_left),
            } => return Ok(Resolution::StillRunning { lease_left }),
            Phase::Finished { .. } => return Ok(Resolution::Finished),
        }
        let policy = *self.rules();
        // The record says what it said of its operation, not what the one who resolves calls it.
        let claim = Claim::new(*id, found.fingerprint, policy.lease, policy.ttl)
            .on_crash(OnCrash::Rerun)
            .operation(found.operation);
        let engine = &self.engine;
        let claimed = engine.store().claim(&claim);
        let claimed = engine.store_call(self.name(), "claim", claimed).await?;
        let (attempt, steps) = match claimed {
            Claimed::Acquired { attempt, steps } => (attempt, steps),
            Claimed::InFlight { lease_left } => {
                return Ok(Resolution::StillRunning { lease_left });
            }
            Claimed::Finished { .. } => return Ok(Resolution::Finished),
            _ => return Ok(Resolution::ChangedMeanwhile),
        };
        let call = Call {
            operation: self.name().clone(),
            policy,
            id: *id,
            flight_key: *id,
            fingerprint: found.fingerprint,
            attaches: false,
        };
        // Freed or begun anew since it was inspected: what crashed is not there any more.
        let is_the_crashed_one = attempt == found.attempt.saturating_add(1);
        let settlement = match verdict {
            Verdict::Final(outcome) if is_the_crashed_one => Settlement::Complete(outcome.encode()),
            Verdict::Crashed if is_the_crashed_one => Settlement::Abandon,
            _ => Settlement::Release,
        };
        let lease = Lease::of(&claim, attempt);
        let forgets = matches!(settlement, Settlement::Release) && !steps.is_empty();
        let change = engine.settle_now(&call, &lease, &settlement).await?;
        if !is_the_crashed_one || change == Change::LeaseLost {
            return Ok(Resolution::ChangedMeanwhile);
        }
        if forgets {
            // Its finished steps have kept it from being freed. Who claims it before it is forgotten
            // goes on with them.
            let seen = Seen::new(attempt, RecordState::Suspended);
            match engine.forget_seen(id, seen).await? {
                Forgotten::Removed | Forgotten::Absent => {}
                _ => return Ok(Resolution::ChangedMeanwhile),
            }
        }
        Ok(Resolution::Resolved)
    }
}
