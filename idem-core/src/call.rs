//! One request, reduced to what the engine needs.

use std::borrow::Cow;

use crate::fingerprint::Fingerprint;
use crate::policy::Policy;
use crate::record::{Claim, OperationName, RecordId};

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) operation: Cow<'static, str>,
    pub(crate) policy: Policy,
    pub(crate) id: RecordId,
    /// By what calls of this process meet: the record's id, but for one in a database that a
    /// transaction names, which others may keep under the same id.
    pub(crate) flight_key: RecordId,
    pub(crate) fingerprint: Fingerprint,
    /// An answer that is on its way is given to this call, too.
    pub(crate) attaches: bool,
}

impl Call {
    /// A claim of its own. `ask_retention`: see [`Claim::ask_retention`].
    pub(crate) fn claim(&self, ask_retention: bool) -> Claim {
        Claim {
            on_crash: self.policy.on_crash,
            ask_retention,
            operation: OperationName::new(&self.operation),
            ..Claim::new(
                self.id,
                self.fingerprint,
                self.policy.lease,
                self.policy.ttl,
            )
        }
    }
}
