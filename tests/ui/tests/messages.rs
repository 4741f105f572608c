//! What the attributes refuse, each mistake with one message at its place. (`pass` has what must
//! compile without a warning: tests of this package. Where no case must pass, trybuild only checks
//! the code, and all cases at once.)

#[test]
fn every_mistake_has_its_message() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("fail/*.rs");
}

#[test]
fn the_message_about_pools_names_the_version_of_sqlx_that_is_used() {
    let manifest = include_str!("../../../Cargo.toml");
    let version = manifest.split_once("sqlx = { version = \"").unwrap().1;
    let version = version.split_once('"').unwrap().0;
    let told = format!("use sqlx {version}, as idem-rs does");
    assert!(include_str!("../../../idem-core/src/transactional.rs").contains(&told));
}
