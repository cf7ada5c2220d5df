//! What is wrong with a specification, all of it at once.

use super::*;

fn findings(text: &str) -> Vec<(String, String)> {
    let findings = CompiledSource::compile(&spec(text)).expect_err(text);
    findings.into_iter().map(|finding| (finding.path, finding.message)).collect()
}

#[test]
fn every_finding_is_reported_at_once_and_says_where() {
    let found = findings(
        r##"
        name = ""
        topics = ["ok/{room}", "bad/#/x"]
        ignore = ["a+"]
        format = "json"
        time = { pointer = "ts", format = "unix" }
        each = "readings"
        delimiter = ";"
        header = true
        series_max = 0
        tags = { room = "/room", id = "id" }
        [fields]
        a = { pointer = "temperature", range = [5, -5], scale = 0.0, offset = inf }
        b = { name = "x", column = "0", when = { roam = "x" }, missing_values = [nan], map = { on = nan } }
        c = { pointer = "/a~2", unit = "" }
        "d@mean" = {}
        "##,
    );
    let paths: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
    for path in [
        "name",
        "topics[1]",
        "ignore[0]",
        "time.pointer",
        "time.format",
        "each",
        "delimiter",
        "header",
        "series_max",
        "tags.room",
        "tags.id",
        "fields.a.pointer",
        "fields.a.range",
        "fields.a.scale",
        "fields.a.offset",
        "fields.b.name",
        "fields.b.column",
        "fields.b.when.roam",
        "fields.b.missing_values",
        "fields.b.map.on",
        "fields.c.pointer",
        "fields.c.unit",
        "fields.d@mean",
    ] {
        assert!(paths.contains(&path), "{path} is not in {paths:?}");
    }
    assert_eq!(paths.len(), 23, "{found:?}");
}

#[test]
fn each_finding_names_the_remedy() {
    let with = |format: &str, more: &str| {
        format!("name = \"s\"\ntopics = [\"a/{{x}}\"]\nformat = \"{format}\"\n{more}")
    };
    for (text, path, part) in [
        (with("json", ""), "fields", "at least one field"),
        ("name = \"s\"\ntopics = []\nformat = \"json\"\n[fields]\nv = {}".to_owned(), "topics", "at least one topic"),
        (with("json", "[fields]\nv = { pointer = \"v\" }"), "fields.v.pointer", "as in `/v`"),
        (with("senml", "[fields]\nv = { pointer = \"/v\" }"), "fields.v.pointer", "by `name`"),
        (with("csv", "[fields]\nv = { pointer = \"/v\" }"), "fields.v.pointer", "by `column`"),
        (with("number", "[fields]\nv = { column = \"0\" }"), "fields.v.column", "with `when`"),
        (with("cbor", "[fields]\nv = { name = \"v\" }"), "fields.v.name", "by `pointer`"),
        (with("number", "[fields]\nv = {}\nw = {}"), "fields.w.when", "tell them apart"),
        (with("number", "tags = { a = \"/a\" }\n[fields]\nv = {}"), "tags", "capture them"),
        (with("number", "time = { pointer = \"/t\" }\n[fields]\nv = {}"), "time.pointer", "leave the key out"),
        (with("senml", "time = { format = \"unix-s\" }\n[fields]\nv = {}"), "time.format", "its own times"),
        (with("senml", "each = \"\"\n[fields]\nv = {}"), "each", "for `json` and `cbor`"),
        (with("json", "time = { fallback = \"reject\" }\n[fields]\nv = {}"), "time.fallback", "write `arrival`"),
        (with("json", "time = { pointer = \"/t\", format = \"%H:%M\" }\n[fields]\nv = {}"), "time.format", "year"),
        (with("json", "time = { pointer = \"/t\", format = \"%Y-%!\" }\n[fields]\nv = {}"), "time.format", "strptime"),
        (with("json", "time = { pointer = \"/t\", format = \"%Y-%m-%d %H:%M %Q\" }\n[fields]\nv = {}"), "time.format", "%z"),
        (with("json", "time = { pointer = \"/t\", format = \"iso\" }\n[fields]\nv = {}"), "time.format", "`rfc3339`"),
        (with("csv", "header = false\n[fields]\nv = {}"), "fields.v.column", "position from 0"),
        (with("csv", "delimiter = \"ä\"\n[fields]\nv = {}"), "delimiter", "ASCII"),
        (with("json", "[fields]\nv = { when = { y = \"1\" } }"), "fields.v.when.y", "the captures are: `x`"),
        (
            "name = \"s\"\ntopics = [\"a/{x}\", \"b/{y}\"]\nformat = \"json\"\n[fields]\nv = { when = { x = \"1\", y = \"1\" } }"
                .to_owned(),
            "fields.v.when",
            "never be read",
        ),
    ] {
        let found = findings(&text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert_eq!(found[0].0, path, "{text}");
        assert!(found[0].1.contains(part), "{text}: {}", found[0].1);
    }
}

#[test]
fn limits_are_findings() {
    let fields: String = (0..257).map(|n| format!("f{n} = {{}}\n")).collect();
    let topics: Vec<String> = (0..65).map(|n| format!("\"t{n}\"")).collect();
    let found = findings(&format!(
        "name = \"{}\"\ntopics = [{}]\nformat = \"json\"\n[fields]\n{fields}",
        "n".repeat(129),
        topics.join(",")
    ));
    let paths: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["name", "topics", "fields"]);
}

#[test]
fn numbers_of_different_topics_need_no_when_value_in_common() {
    source(
        "name = \"s\"\ntopics = [\"a/{x}\", \"b/{y}\"]\nformat = \"number\"\n[fields]\n\
         v = { when = { x = \"1\" } }\nw = { when = { y = \"1\" } }",
    );
}
