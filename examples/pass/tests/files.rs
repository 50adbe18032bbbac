//! Every file of `tests/files`. `cargo insta test --review` shows what has changed.

use lstmc::passes::testing::outcome_of;

#[test]
fn every_file_gives_its_snapshot() {
    let passes = row_prune::passes();
    insta::glob!("files/*.ir", |path| insta::assert_snapshot!(outcome_of(path, passes)));
}
