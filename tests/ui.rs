//! What the attributes refuse, each mistake with one message at its place (`ui/fail`), and what
//! must compile without a warning (`ui/pass`).

#[test]
fn every_mistake_has_its_message_and_no_correct_use_a_warning() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}
