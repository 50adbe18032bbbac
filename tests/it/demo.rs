//! The README's first command.

use crate::program::Sandbox;

#[test]
fn demo() {
    let sandbox = Sandbox::new();
    let run = sandbox.run(&["demo", "--search", "3s"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    // What PyTorch trained and ONNX Runtime recorded for this text: from both engines, and before compressing.
    assert_eq!(run.stdout.matches(" 104.80").count(), 3, "{}", run.stdout);
    for part in [
        "== Import",
        "lstm %x0",
        "GB/s",
        "ptb-small.lstmc: ",
        "\"the company said it expects to\" ->",
        "== Search",
        "the time is over",
        "lstmc compile model.onnx",
    ] {
        assert!(run.stdout.contains(part), "{part}\n{}", run.stdout);
    }
}

/// It needs the bundled model, and says where it looked.
#[test]
fn demo_without_data() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(sandbox.run(&["demo", "--data", "[dir]/missing"]).stderr);
}
