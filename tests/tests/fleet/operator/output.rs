//! What programs read of `dunlin`: results in four forms, exit codes, completions, man pages.

use std::fs;

use dunlin_e2e::Outcome;
use dunlin_e2e::key_files::KeyPlan;
use dunlin_e2e::package::write;

use super::{Office, text};

#[test]
fn results_are_tables_json_and_yaml_and_texts_stay_texts() -> Outcome<()> {
    let office = Office::adopted()?;
    let operator = &office.operator;
    // What a reader of YAML would take for a truth value, a number, nothing, or a comment.
    for name in ["yes", "1e3", "null", "a: b # c"] {
        let file = office.path(&format!("{}.token", name.len()));
        operator.run(&["tokens", "new", name, "--scope", "viewer", "--to", text(&file)])?;
        fs::remove_file(file)?;
    }
    let listed = office.json(&["tokens", "list"])?;
    let names: Vec<&str> = listed.as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names.len(), 5, "{listed}");
    let yaml = operator.run(&["tokens", "list", "-o", "yaml"])?;
    assert_eq!(yaml.matches("id: ").count(), 5, "{yaml}");
    for name in ["yes", "1e3", "null", "a: b # c"] {
        let quoted = [format!("name: \"{name}\""), format!("name: '{name}'")];
        assert!(quoted.iter().any(|quoted| yaml.contains(quoted)), "{name} in {yaml}");
    }
    let yaml = operator.run(&["server", "get", "-o", "yaml"])?;
    assert!(yaml.contains("\n  is_adopted: true\n"), "{yaml}");
    let (table, wide) =
        (operator.run(&["devices", "list"])?, operator.run(&["devices", "list", "-o", "wide"])?);
    assert!(table.starts_with("DEVICE") && !table.contains("HOST") && wide.contains("HOST"), "{table}{wide}");
    Ok(())
}

#[test]
fn each_way_to_end_has_its_code() -> Outcome<()> {
    let office = Office::open(KeyPlan { roots: 2, root_threshold: 2, targets: 1 })?;
    let operator = &office.operator;
    operator.run(&["server", "get"])?;
    let token = office.server.plan().data.join("keys/admin.token");
    let nobody = ["server", "get", "--server", "http://127.0.0.1:1", "--token-file", text(&token)];
    operator.refused(&nobody, 1)?;
    operator.refused(&["server", "get", "-o", "xml"], 2)?;
    operator.refused(&["rollout", "plan", "frost"], 2)?;
    operator.refused(&["devices", "get", "nothing-of-the-sort"], 3)?;
    operator.refused(&["rollout", "plan", "frost", "--query", "*"], 3)?;
    // A keeper alone: the change waits, and another one cannot begin.
    let mut keys = fs::read_dir(office.path("trust/keys"))?.filter_map(|entry| Some(entry.ok()?.path()));
    let root = keys.find(|path| text(path).contains("root-")).unwrap();
    fs::rename(&root, office.path("away.key"))?;
    operator.with_pass(&["server", "adopt"])?;
    operator.refused(&["publish"], 4)?;
    operator.refused(&["keys", "renew", "root"], 4)?;
    write(&office.path("empty.results"), b"")?;
    operator.refused(&["bundle", "import-results", "empty.results"], 5)?;
    operator.refused(&["bundle", "import-results", "missing.results"], 3)?;
    Ok(())
}

#[test]
fn shells_and_man_know_every_command() -> Outcome<()> {
    let office = Office::open(KeyPlan::default())?;
    let operator = &office.operator;
    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef dunlin"), ("fish", "complete -c dunlin")]
    {
        let text = operator.run(&["completions", shell])?;
        assert!(text.contains(part) && text.contains("import-results"), "{shell}");
    }
    let said = operator.run(&["manual", "--to", "man"])?;
    assert!(said.starts_with("wrote "), "{said}");
    for page in
        ["dunlin.1", "dunlin-keys-rotate.1", "dunlin-rollout-start.1", "dunlin-bundle-import-results.1"]
    {
        let page = fs::read_to_string(office.path("man").join(page))?;
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
    Ok(())
}
