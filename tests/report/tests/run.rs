//! A run as it is written, and read again.

use totoro_report::{Better, Figure, Goal, Relative, Run, Verdict};

fn run() -> Run {
    let mut run = Run::new("example");
    run.baseline("empty", "1.2 <built & here>");
    run.note("Rounds in turn.");
    let empty = [30.0, 31.0, 32.0];
    let ours = Figure::new(
        "xdp",
        "not ours",
        "ns",
        Better::Less,
        vec![35.0, 37.0, 36.0],
    )
    .goal(Goal::at_most(35.0))
    .against("empty", &empty, Some(Relative::over(5.0)))
    .against("empty", &empty[..2], None);
    run.add(ours);
    run.add(
        Figure::new("accuracy", "leaked", "", Better::Less, vec![0.0; 3])
            .goal(Goal::at_most(0.0).each()),
    );
    run.add(Figure::new(
        "accuracy",
        "admitted",
        "/s",
        Better::More,
        vec![1.0, 5_000.0],
    ));
    run
}

#[test]
fn is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let run = run();
    let written = run.write(dir.path()).unwrap();
    assert_eq!(Run::read(&written).unwrap(), run);
    assert_eq!(Run::read(&written.join("run.json")).unwrap(), run);
    // What follows from the figures stands there too.
    let json: serde_json::Value = serde_json::from_str(&run.json()).unwrap();
    let figure = &json["figures"][0];
    assert_eq!(figure["median"], 36.0);
    assert_eq!(figure["range"], serde_json::json!([35.0, 37.0]));
    assert_eq!(figure["verdict"], "missed");
    assert_eq!(json["figures"][1]["verdict"], "met");
    assert_eq!(json["figures"][2]["verdict"], serde_json::Value::Null);
    let goals = serde_json::json!({ "met": 2, "all": 3, "not_measured": [] });
    assert_eq!(json["goals"], goals);
}

#[test]
fn goals_are_judged_over_all_repeats() {
    let run = run();
    let verdicts: Vec<Verdict> = run.figures.iter().flat_map(Figure::verdicts).collect();
    // 36 ns is the median; round by round it is 5, 6 and 4 ns over the empty program.
    assert_eq!(verdicts, [Verdict::Missed, Verdict::Met, Verdict::Met]);
    let goals = run.goals();
    assert_eq!((goals.met, goals.all), (2, 3));
    assert_eq!(goals.to_string(), "2 of 3 goals met.");
}

/// A run whose second figure has no samples, and whose first lacks one baseline of two.
fn lacking() -> Run {
    let mut run = run();
    run.baseline("nft", "not measured: it is not there");
    run.only("--only", "xdp");
    let figure = run.figures.remove(0);
    run.figures
        .insert(0, figure.lacks("nft", Some(Relative::at_most(1.0))));
    run.figures[1].samples.clear();
    run
}

#[test]
fn a_goal_without_samples_is_counted_and_named() {
    let run = lacking();
    let goals = run.goals();
    // Before: three, of which two were met; the one of the figure without samples is not any more.
    assert_eq!((goals.met, goals.all), (1, 4));
    let names = ["xdp: not ours, beside nft", "accuracy: leaked"];
    assert_eq!(goals.not_measured, names);
    assert_eq!(run.figures[1].verdict(), Some(Verdict::NotMeasured));
    // A missed goal is not hidden by one that can't be judged.
    assert_eq!(run.figures[0].verdict(), Some(Verdict::Missed));

    let dir = tempfile::tempdir().unwrap();
    let written = run.write(dir.path()).unwrap();
    assert_eq!(Run::read(&written).unwrap(), run);
    let json: serde_json::Value = serde_json::from_str(&run.json()).unwrap();
    assert_eq!(json["goals"]["not_measured"], serde_json::json!(names));
    assert_eq!(json["figures"][1]["verdict"], "not_measured");
    assert_eq!(json["figures"][1]["median"], serde_json::Value::Null);

    let page = std::fs::read_to_string(written.join("index.html")).unwrap();
    let table = run.table();
    let said = "1 of 4 goals met; 2 could not be measured, and count as not met:";
    for text in [&page, &table] {
        assert!(text.contains(said), "{text}");
        assert!(names.iter().all(|name| text.contains(name)), "{text}");
        assert!(text.contains("nft: not measured"), "{text}");
        assert!(text.contains("--only xdp"), "{text}");
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
    assert!(table.contains("| **not measured** |"), "{table}");
    assert!(page.contains("✗ not measured"), "{page}");
}

#[test]
fn an_earlier_run_was_restricted_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.json");
    let mut json: serde_json::Value = serde_json::from_str(&run().json()).unwrap();
    let fields = json.as_object_mut().unwrap();
    assert!(fields.remove("only").is_some() && fields.remove("goals").is_some());
    std::fs::write(&file, json.to_string()).unwrap();
    assert_eq!(Run::read(&file).unwrap(), run());
}

#[test]
fn the_page_needs_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let page =
        std::fs::read_to_string(run().write(dir.path()).unwrap().join("index.html")).unwrap();
    assert!(page.contains("1.2 &lt;built &amp; here&gt;"), "{page}");
    assert_eq!(
        page.matches("<svg").count(),
        3,
        "a picture per part and unit"
    );
    for from_elsewhere in ["<script", "<link", "@import", "url("] {
        assert!(!page.contains(from_elsewhere), "{from_elsewhere}");
    }
}

#[test]
fn another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.json");
    std::fs::write(
        &file,
        run().json().replace("\"format\": 1", "\"format\": 2"),
    )
    .unwrap();
    let error = Run::read(&file).unwrap_err().to_string();
    assert!(error.contains("format 2"), "{error}");
    std::fs::write(&file, "{}").unwrap();
    assert!(Run::read(&file).is_err());
}

#[test]
#[should_panic(expected = "no baseline")]
fn a_baseline_without_a_version_is_refused() {
    let figure = Figure::new("xdp", "other", "ns", Better::Less, vec![1.0]);
    run().add(figure.against("nft", &[1.0], None));
}

#[test]
#[should_panic(expected = "not measured")]
fn nothing_measured_is_no_figure() {
    let _ = Figure::new("xdp", "other", "ns", Better::Less, vec![]);
}
