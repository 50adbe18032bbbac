//! `lstmc search`.

use crate::program::{Sandbox, TINY, TINY_TEXT, TINY_WORDS, interrupt, root};
use insta::assert_snapshot;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A search of the tiny model, in a folder of the sandbox; `more` has the budget.
fn search<'a>(folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let texts = ["--vocab", TINY_WORDS, "--calibrate", TINY_TEXT, "--validate", TINY_TEXT];
    [&["search", TINY][..], &texts, more, &["-o", folder]].concat()
}

/// What a search found, but for times, which no two runs share.
fn found(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("frontier.json")).unwrap();
    let mut list: Value = serde_json::from_str(&text).unwrap();
    let points = list["points"].as_array_mut().unwrap();
    points.iter_mut().for_each(|p| p["microseconds_per_step"] = Value::Null);
    list["best"]["microseconds_per_step"] = Value::Null;
    list
}

/// The bytes of a weight budget's best model are within it, its perplexity is that of `eval`, and recipes make what they are beside.
#[test]
fn a_budget_of_bytes() {
    let sandbox = Sandbox::new();
    let list = sandbox.json(&search("[dir]/found", &["--max-bytes", "900", "--candidates", "18"]));
    assert_eq!((&list["met"], &list["stop"]), (&true.into(), &"candidates".into()));
    assert_eq!(list["budget"]["max_bytes"], 900);
    assert!(list["best"]["bytes"].as_u64().unwrap() <= 900, "{list}");
    let of_points = |name: &str| -> Vec<f64> {
        list["points"].as_array().unwrap().iter().map(|p| p[name].as_f64().unwrap()).collect()
    };
    assert!(of_points("bytes").is_sorted_by(|a, b| a > b), "{list}");
    assert!(of_points("perplexity").is_sorted_by(|a, b| a < b), "{list}");
    assert!(of_points("microseconds_per_step").iter().all(|us| *us > 0.0));
    for point in list["points"].as_array().unwrap() {
        let [file, recipe] =
            ["file", "recipe"].map(|name| format!("[dir]/found/{}", point[name].as_str().unwrap()));
        let eval = sandbox.json(&["eval", &file, "--text", TINY_TEXT]);
        let [have, want] = [&eval["perplexity"], &point["perplexity"]].map(|p| p.as_f64().unwrap());
        assert!((have - want).abs() < 1e-4 * want, "{point} {eval}");
        let made = ["-o", "[dir]/made.lstmc", "--entropy", "--calibrate", TINY_TEXT, "--validate", TINY_TEXT];
        sandbox.ok(&[&["compile", TINY, "--vocab", TINY_WORDS, "--recipe", &recipe], &made[..]].concat());
        assert_eq!(sandbox.json(&["inspect", "[dir]/made.lstmc"])["bytes"], point["bytes"], "{recipe}");
    }
    assert_eq!(sandbox.json(&["inspect", "[dir]/found/best.lstmc"])["bytes"], list["best"]["bytes"]);
    let page = std::fs::read_to_string(sandbox.path("found/report.html")).unwrap();
    assert!(page.contains("what a search found"));
    // All that an ended search needs to end again is there: nothing is evaluated, and less is more quickly listed.
    let less = sandbox.ok(&search("[dir]/found", &["--max-bytes", "900", "--candidates", "5", "--collect"]));
    assert!(less.contains("5 candidates; end: the number of candidates is reached"), "{less}");
    let left: Vec<_> =
        std::fs::read_dir(sandbox.path("found")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let models = left.iter().filter(|name| name.to_string_lossy().ends_with("kB.lstmc")).count();
    assert_eq!(models, found(&sandbox.path("found"))["points"].as_array().unwrap().len(), "{left:?}");
}

/// A search that was killed, and one of whose files some are lost, ends as if nothing had happened.
#[test]
fn killed_and_resumed() {
    let sandbox = Sandbox::new();
    let budget = ["--max-increase", "1%", "--candidates", "17"];
    sandbox.ok(&search("[dir]/whole", &budget));
    let whole = found(&sandbox.path("whole"));
    let mut child = sandbox
        .command(&search("[dir]/killed", &budget))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let done = || -> Vec<std::path::PathBuf> {
        let files = std::fs::read_dir(sandbox.path("killed/candidates")).into_iter().flatten();
        let mut done: Vec<_> =
            files.map(|e| e.unwrap().path()).filter(|p| p.extension() == Some("json".as_ref())).collect();
        done.sort();
        done
    };
    while done().len() < 4 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let done = done();
    assert!(done.len() >= 4);
    // Figures without a model, a model without figures, half a model.
    std::fs::remove_file(done[0].with_extension("lstmc")).unwrap();
    std::fs::remove_file(&done[1]).unwrap();
    std::fs::remove_file(&done[2]).unwrap();
    std::fs::write(done[2].with_extension("lstmc"), "LSTMC").unwrap();
    sandbox.ok(&search("[dir]/killed", &[&budget[..], &["--jobs", "2"]].concat()));
    assert_eq!(found(&sandbox.path("killed")), whole);
}

/// Runs the commands of a round elsewhere.
type Elsewhere = fn(&[String]);

fn by_shell(commands: &[String]) {
    for command in commands {
        assert!(Command::new("sh").args(["-c", command]).current_dir(root()).status().unwrap().success());
    }
}

fn by_parallel(commands: &[String]) {
    let mut parallel = Command::new("parallel")
        .args(["-j", "2", "--will-cite"])
        .current_dir(root())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut parallel.stdin.take().unwrap(), (commands.join("\n") + "\n").as_bytes())
        .unwrap();
    assert!(parallel.wait().unwrap().success());
}

/// Jobs run elsewhere give the frontier of one process. Sizes of a few bytes fail here as there.
#[test]
fn jobs_elsewhere() {
    let sandbox = Sandbox::new();
    let budget = ["--max-increase", "1%", "--candidates", "16"];
    sandbox.ok(&search("[dir]/whole", &budget));
    let whole = found(&sandbox.path("whole"));
    let has_parallel = Command::new("parallel").arg("--version").output().is_ok_and(|o| o.status.success());
    if !has_parallel {
        eprintln!("SKIPPED: GNU parallel is not installed; its jobs are run by the shell alone");
    }
    let runners: [(&str, Elsewhere); 2] = [("[dir]/by shell", by_shell), ("[dir]/by parallel", by_parallel)];
    for (folder, run) in &runners[..1 + usize::from(has_parallel)] {
        assert_eq!(run_elsewhere(&sandbox, folder, &budget, *run), whole);
    }
}

/// What a search finds whose candidates `run` evaluates.
fn run_elsewhere(sandbox: &Sandbox, folder: &str, budget: &[&str], run: Elsewhere) -> Value {
    let emitting = search(folder, &[budget, &["--emit-jobs", "[dir]/jobs.jsonl", "--collect"]].concat());
    let mut rounds = 0;
    loop {
        sandbox.ok(&emitting);
        let lines = std::fs::read_to_string(sandbox.path("jobs.jsonl")).unwrap();
        let jobs: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        if jobs.is_empty() {
            break;
        }
        let commands: Vec<String> = jobs.iter().map(|j| j["command"].as_str().unwrap().to_string()).collect();
        // One is left for the next time.
        let most = if rounds == 0 { commands.len() - 1 } else { commands.len() };
        run(&commands[..most]);
        rounds += 1;
    }
    assert!(rounds > 1);
    found(&sandbox.path(&folder["[dir]/".len()..]))
}

/// What fails elsewhere leaves its reason, and a search goes on without it.
#[test]
fn failing_jobs() {
    let sandbox = Sandbox::new();
    let emitting = search(
        "[dir]/found",
        &["--max-bytes", "900", "--candidates", "2", "--emit-jobs", "[dir]/jobs.jsonl"],
    );
    // The next job's command.
    let emitted = || {
        sandbox.ok(&emitting);
        let line = std::fs::read_to_string(sandbox.path("jobs.jsonl")).unwrap();
        let job: Value = serde_json::from_str(&line).unwrap_or_default();
        job["command"].as_str().map(String::from)
    };
    by_shell(&[emitted().unwrap().replace("bytes=900", "bits=9")]);
    by_shell(&[emitted().unwrap()]);
    assert_eq!(emitted(), None);
    let list = found(&sandbox.path("found"));
    assert_eq!((&list["candidates"], list["points"].as_array().unwrap().len()), (&2.into(), 1));
    let failed = &list["failed"][0];
    assert_eq!(failed["pipeline"], "quantize(bytes=900)");
    assert!(failed["reason"].as_str().unwrap().contains("bits"), "{failed}");
}

/// A budget of time, measured here, and predicted from what layers cost.
#[test]
fn a_budget_of_time() {
    let sandbox = Sandbox::new();
    let budget = ["--max-latency", "1ms", "--candidates", "12"];
    let list = sandbox.json(&search("[dir]/found", &budget));
    assert_eq!(list["met"], true);
    assert!(list["best"]["microseconds_per_step"].as_f64().unwrap() < 1000.0);
    let models = std::fs::read_dir(sandbox.path("found/candidates")).unwrap().map(|e| e.unwrap().path());
    let models: Vec<_> = models.filter(|p| p.extension() == Some("lstmc".as_ref())).collect();
    for model in &models[1..] {
        sandbox.ok(&["bench", model.to_str().unwrap(), "--rounds", "1", "--costs", "[dir]/costs.json"]);
    }
    let of_costs = [&budget[..], &["--costs", "[dir]/costs.json"]].concat();
    let run = sandbox.run(&search("[dir]/found", &of_costs));
    assert_eq!(run.code, Some(0), "{run:?}");
    let costs: Value = serde_json::from_slice(&std::fs::read(sandbox.path("costs.json")).unwrap()).unwrap();
    let (_, layers) = costs.as_object().unwrap().iter().next().unwrap();
    assert!(layers.as_object().unwrap().len() > 3, "{costs}");
    let run = sandbox.run(&search("[dir]/found", &["--max-latency", "1ns", "--candidates", "3"]));
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("no model met the budget") && run.stderr.contains("best.lstmc"), "{run:?}");
    assert!(run.stdout.contains("nearest"), "{run:?}");
}

/// With a text to train on, schedules are tried too. Their codes are made from the trained model, here and elsewhere.
#[test]
fn with_training() {
    let sandbox = Sandbox::new();
    sandbox.file("long.txt", std::fs::read_to_string(root().join(TINY_TEXT)).unwrap().repeat(20));
    let more = ["--max-bytes", "900", "--train", "[dir]/long.txt", "--seed", "3", "--candidates", "18"];
    let list = sandbox.json(&search("[dir]/found", &more));
    assert_eq!(list["met"], true);
    let log = std::fs::read_to_string(sandbox.path("found/log.txt")).unwrap();
    let of_seed: Vec<&str> = log.lines().filter(|line| line.contains("seed=3")).collect();
    let count = |epochs: &str| of_seed.iter().filter(|line| line.contains(epochs)).count();
    let [short, middle, long] = ["epochs=1, opt", "epochs=3, opt", "epochs=9, opt"].map(count);
    assert!(short > middle && middle == 2 && long > 4, "{log}");
    // As if they had been made in one run: their reports have all passes, and the model as given before them.
    for entry in std::fs::read_dir(sandbox.path("found/candidates")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension() == Some("lstmc".as_ref()) {
            let inspect = sandbox.json(&["inspect", path.to_str().unwrap()]);
            let report = &inspect["report"];
            let passes: Vec<&str> = report["passes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| p["invocation"].as_str().unwrap())
                .collect();
            assert_eq!(inspect["recipe"], passes.join(", "), "{inspect}");
            assert_eq!(report["before"]["perplexity"], list["given"]["perplexity"], "{inspect}");
        }
    }
    assert_eq!(run_elsewhere(&sandbox, "[dir]/elsewhere", &more, by_shell), found(&sandbox.path("found")));
}

/// Ctrl-C ends a search with what it found. How far it comes before is a race, so a few are tried.
#[test]
#[cfg(unix)]
fn interrupted() {
    for _ in 0..5 {
        let sandbox = Sandbox::new();
        let child = sandbox
            .command(&search("[dir]/found", &["--max-increase", "1%"]))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = sandbox.path("found/log.txt");
        // Until there is a model: goals that a tiny one cannot reach come first.
        while !std::fs::read_to_string(&log).unwrap_or_default().contains(" bytes, perplexity ") {
            std::thread::sleep(Duration::from_millis(2));
        }
        interrupt(&child);
        let run = sandbox.outcome(child.wait_with_output().unwrap());
        assert!(sandbox.path("found/frontier.json").is_file(), "{run:?}");
        let list = found(&sandbox.path("found"));
        if list["stop"] == "interrupted" {
            assert_eq!(run.code, Some(if list["met"] == true { 0 } else { 1 }), "{run:?}");
            assert!(run.stderr.contains("stopping the search"), "{run:?}");
            assert!(sandbox.path("found/best.lstmc").is_file());
            return;
        }
    }
    panic!("every search ended before Ctrl-C");
}

#[test]
fn refusals() {
    let sandbox = Sandbox::new();
    sandbox.file("file", "");
    let refused = |more: &[&str]| sandbox.refused(&search("[dir]/found", more));
    let all = [
        refused(&[]),
        refused(&["--max-bytes", "2mb"]),
        refused(&["--max-latency", "50"]),
        refused(&["--max-bytes", "2MB", "--max-increase", "2%"]),
        refused(&["--max-increase", "a bit"]),
        refused(&["--max-bytes", "2MB", "--time", "10"]),
        refused(&["--max-latency", "1us", "--costs", "[dir]/file"]),
        sandbox.refused(&search("[dir]/file", &["--max-bytes", "2MB"])),
    ];
    assert_snapshot!(all.concat());
}
