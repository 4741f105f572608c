//! A server for each check, which fails it and only what follows from it.

#[path = "support/bank.rs"]
mod bank;

use std::time::{Duration, Instant};

use bank::{Bank, Fault};
use idem_probe::{Options, Profile, Report, Verdict, run};

fn options(bank: &Bank, profile: Profile) -> Options {
    let mut options = Options::new(bank.url());
    options.profile = profile;
    options.body = "{\"amount\":5}".to_owned();
    options.credential = Some("authorization: Bearer one".to_owned());
    options.other_credential = Some("authorization: Bearer other".to_owned());
    options.answer_timeout = Duration::from_secs(2);
    options
}

async fn probe(fault: Fault, profile: Profile) -> Report {
    let bank = Bank::start(fault, profile).await;
    let report = run(&options(&bank, profile)).await.unwrap();
    assert_eq!(report.requests, bank.requests());
    report
}

fn names(report: &Report, verdict: Verdict) -> Vec<&'static str> {
    let checks = report.checks.iter();
    let such = checks.filter(|check| check.verdict == verdict);
    such.map(|check| check.name).collect()
}

/// What fails, what cannot be told, and what is advised.
async fn finds(
    fault: Fault,
    profile: Profile,
    fails: &[&str],
    cannot_tell: &[&str],
    advised: &[&str],
) -> Report {
    let report = probe(fault, profile).await;
    assert_eq!(names(&report, Verdict::Fail), fails, "{fault:?}: {report}");
    let unknown = names(&report, Verdict::CannotTell);
    assert_eq!(unknown, cannot_tell, "{fault:?}: {report}");
    let advice = names(&report, Verdict::Advice);
    assert_eq!(advice, advised, "{fault:?}: {report}");
    let code = match (fails, cannot_tell) {
        ([_, ..], _) => 5,
        ([], [_, ..]) => 6,
        ([], []) => 0,
    };
    assert_eq!(report.exit_code(), code);
    report
}

/// Under the draft, a fault that fails these checks and takes nothing from the others.
async fn fails(fault: Fault, checks: &[&str]) -> Report {
    finds(fault, Profile::Ietf, checks, &[], &[]).await
}

#[tokio::test]
async fn a_server_that_keeps_to_the_contract_passes() {
    let report = fails(Fault::None, &[]).await;
    assert_eq!(report.verdict, Verdict::Pass, "{report}");
    assert_eq!(report.checks.len(), 21, "{report}");
    let report = finds(Fault::None, Profile::Stripe, &[], &[], &[]).await;
    assert_eq!(report.checks.len(), 14, "{report}");
    fails(Fault::SaysWhere, &[]).await;
}

#[tokio::test]
async fn without_two_executions_nothing_else_is_checked() {
    for fault in [Fault::RefusesAll, Fault::Redirects] {
        let report = fails(fault, &["first"]).await;
        assert_eq!(report.requests, 1, "{report}");
    }
    let report = fails(Fault::IgnoresKeys, &["another-key"]).await;
    assert_eq!(report.requests, 2, "{report}");
    fails(Fault::MarksFirstAnswers, &["first", "another-key"]).await;
}

const COMPARED: [&str; 5] = [
    "concurrent",
    "two-tenants",
    "hang-up-in-request",
    "hang-up-before-answer",
    "cut-answer",
];

#[tokio::test]
async fn answers_that_say_nothing_are_not_taken_for_proof() {
    let cannot_tell = [&["another-key"], &COMPARED[..]].concat();
    finds(Fault::SaysOk, Profile::Ietf, &[], &cannot_tell, &[]).await;
}

#[tokio::test]
async fn replays_that_are_not_the_first_answer() {
    fails(Fault::ReplaysWithAnotherStatus, &["replay-status"]).await;
    fails(Fault::ReplaysWithoutLocation, &["replay-headers"]).await;
    // What a retry's answer is worth is not known any more.
    let body = ["replay-body"];
    let fault = Fault::ReplaysWithAnotherBody;
    finds(fault, Profile::Ietf, &body, &COMPARED, &[]).await;
    let marker = ["replay-marker"];
    let fault = Fault::DoesNotMarkReplays;
    finds(fault, Profile::Stripe, &marker, &[], &[]).await;
    finds(fault, Profile::Ietf, &[], &[], &marker).await;
}

#[tokio::test]
async fn another_body_that_is_not_refused_as_it_should_be() {
    for fault in [
        Fault::ReplaysToAnotherBody,
        Fault::CarriesAnotherBodyOut,
        Fault::RefusesAnotherBodyAsInFlight,
        Fault::ForgetsAtAnotherBody,
    ] {
        fails(fault, &["other-body"]).await;
    }
    let fault = Fault::RefusesAnotherBodyAsInFlight;
    finds(fault, Profile::Stripe, &["other-body"], &[], &[]).await;
}

#[tokio::test]
async fn duplicates_that_are_all_carried_out_or_fail() {
    let report = fails(Fault::ChecksThenInserts, &["concurrent"]).await;
    let found = report
        .checks
        .iter()
        .find(|check| check.name == "concurrent");
    let detail = &found.unwrap().detail;
    assert!(detail.ends_with("8 were carried out"), "{detail}");
    // A retry that comes while the first request runs is a duplicate as well.
    let checks = ["concurrent", "hang-up-before-answer"];
    fails(Fault::FailsAtDuplicates, &checks).await;
}

#[tokio::test]
async fn keys_that_are_not_refused() {
    fails(Fault::NeedsNoKey, &["key-missing"]).await;
    for (name, _) in &bank::MALFORMED[..7] {
        fails(Fault::Accepts(name), &[name]).await;
    }
    let fault = Fault::Accepts("key-too-long");
    finds(fault, Profile::Stripe, &["key-too-long"], &[], &[]).await;
    let lines = ["key-two-lines"];
    let fault = Fault::TakesTheFirstLine;
    fails(fault, &lines).await;
    finds(fault, Profile::Stripe, &[], &[], &lines).await;
    let all: Vec<_> = ["key-missing"]
        .into_iter()
        .chain(bank::MALFORMED[..7].iter().map(|(name, _)| *name))
        .chain(lines)
        .collect();
    fails(Fault::RefusesKeysWith(500), &all).await;
    fails(Fault::RefusesKeysWith(422), &all).await;
}

#[tokio::test]
async fn tenants_that_share_their_keys() {
    fails(Fault::SharesKeysAmongTenants, &["two-tenants"]).await;
    let bank = Bank::start(Fault::None, Profile::Ietf).await;
    let mut options = options(&bank, Profile::Ietf);
    options.other_credential = None;
    let report = run(&options).await.unwrap();
    assert_eq!(names(&report, Verdict::Skipped), ["two-tenants"]);
    assert_eq!(report.verdict, Verdict::Pass);
    assert_eq!(report.exit_code(), 0);
}

#[tokio::test]
async fn clients_that_go_away_and_find_their_key_stuck_or_free() {
    let half = ["hang-up-in-request"];
    fails(Fault::ClaimsBeforeTheBody, &half).await;
    let unread = ["hang-up-before-answer"];
    fails(Fault::StopsWhenTheClientGoes, &unread).await;
    fails(Fault::ForgetsWhatWasNotRead, &["cut-answer"]).await;
}

#[tokio::test]
async fn no_bound_is_passed() {
    let all = probe(Fault::None, Profile::Ietf).await.requests;
    for most in [1, 2, 3, 5, 8, 13, 21, 34, all - 1, all] {
        let bank = Bank::start(Fault::None, Profile::Ietf).await;
        let mut options = options(&bank, Profile::Ietf);
        options.max_requests = most;
        let report = run(&options).await.unwrap();
        assert!(bank.requests() <= most);
        assert_eq!(names(&report, Verdict::Fail), [""; 0], "{report}");
        let expected = if most < all { 6 } else { 0 };
        assert_eq!(report.exit_code(), expected, "{most}: {report}");
    }
    let bank = Bank::start(Fault::Hangs, Profile::Ietf).await;
    let mut options = options(&bank, Profile::Ietf);
    options.timeout = Duration::from_millis(200);
    let begun = Instant::now();
    let report = run(&options).await.unwrap();
    assert_eq!(names(&report, Verdict::CannotTell), ["first"], "{report}");
    options.answer_timeout = Duration::from_millis(100);
    options.timeout = Duration::from_secs(60);
    let report = run(&options).await.unwrap();
    assert_eq!(names(&report, Verdict::Fail), ["first"], "{report}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn the_report_names_no_key_no_credential_and_no_body() {
    let bank = Bank::start(Fault::ReplaysWithAnotherBody, Profile::Ietf).await;
    let mut options = options(&bank, Profile::Ietf);
    options.url.push_str("?token=secret");
    options.credential = Some("authorization: Bearer secret".to_owned());
    options.body = "{\"secret\":5}".to_owned();
    let report = run(&options).await.unwrap();
    let said = format!("{report} {report:?} {} {options:?}", report.to_json());
    assert!(!said.contains("secret"), "{said}");
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["verdict"], "fail");
    assert_eq!(json["profile"], "ietf");
    assert_eq!(json["checks"][0]["name"], "first");
    assert_eq!(json["checks"][0]["verdict"], "pass");
    options.headers = vec!["secret".to_owned()];
    let refused = run(&options).await.unwrap_err();
    assert!(!format!("{refused} {refused:?}").contains("secret"));
}

#[cfg(feature = "clap")]
#[test]
fn the_options_are_arguments_with_the_same_defaults() {
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }
    Line::command().debug_assert();
    let line = Line::try_parse_from(["probe", "http://localhost/"]).unwrap();
    let (line, new) = (line.options, Options::new("http://localhost/"));
    assert_eq!(format!("{line:?}"), format!("{new:?}"));
    assert_eq!((line.body, line.key_header), (new.body, new.key_header));
    let line = "probe http://localhost/ --profile stripe -H a:b -H c:d --timeout 5 --i-own-this";
    let line = Line::try_parse_from(line.split(' ')).unwrap().options;
    assert_eq!(line.profile, Profile::Stripe);
    assert_eq!(line.headers, ["a:b", "c:d"]);
    assert_eq!(line.timeout, Duration::from_secs(5));
    assert!(line.i_own_this);
}
