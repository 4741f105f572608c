//! Keys that no request may have.

use http::HeaderValue;

use super::probe::{Found, Probe, advice, fail, pass};
use crate::Profile;
use crate::client::Call;
use crate::profile::Malformed;

pub(super) async fn missing(probe: &Probe<'_>) -> Found {
    is_bad_request(probe, &probe.with_keys(Vec::new())).await
}

pub(super) async fn malformed(probe: &Probe<'_>, malformed: &Malformed) -> Found {
    match HeaderValue::from_bytes(&malformed.value) {
        Ok(key) => is_bad_request(probe, &probe.with_keys(vec![key])).await,
        Err(_) => fail("the key cannot be sent"),
    }
}

pub(super) async fn two_lines(probe: &Probe<'_>) -> Found {
    let keys = [(); 2].map(|()| probe.profile.fresh_key());
    let call = probe.with_keys(keys.to_vec());
    if probe.profile == Profile::Ietf {
        return is_bad_request(probe, &call).await;
    }
    match probe.client.send(&call).await?.status {
        400 => pass("400"),
        status => advice(format!(
            "{status}: one of two keys is taken, and a proxy may turn them round"
        )),
    }
}

async fn is_bad_request(probe: &Probe<'_>, call: &Call) -> Found {
    match probe.client.send(call).await?.status {
        400 => pass("400"),
        status @ 200..=299 => fail(format!("{status}: carried out, not refused with 400")),
        status => fail(format!("{status}, not 400")),
    }
}
