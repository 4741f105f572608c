//! What a stranger finds who knows the address alone.

use idem_probe::{Options, Verdict, run};

use crate::{Framework, Setup, serve};

pub(crate) async fn a_probe_from_outside_finds_nothing<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let mut options = Options::new(format!("http://{}/charges", server.0));
    options.body = "{\"amount\":5}".to_owned();
    options.credential = Some("authorization: Bearer one".to_owned());
    options.other_credential = Some("authorization: Bearer other".to_owned());
    let report = run(&options).await.unwrap();
    assert_eq!(report.verdict, Verdict::Pass, "{}: {report}", F::NAME);
    // By those who were refused, none.
    assert_eq!(works.executed(), EXECUTED, "{}: {report}", F::NAME);
}

/// Once for each of: the first key, another one, another body alone, duplicates at once, each tenant,
/// and each client that goes away.
const EXECUTED: u32 = 9;
