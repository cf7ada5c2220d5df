//! Outputs that are labels, maps or sequences.

use super::*;

fn label(name: &str, labels: &[&str]) -> serde_json::Value {
    json!({ "name": name, "kind": "classification", "shape": ["batch"], "post": { "labels": labels } })
}

/// Hands the input on as integers, a value a window.
fn integers() -> Vec<u8> {
    let nodes = [
        with_int(node("Cast", &["x"], &["whole"]), "to", I64),
        with_int(node("Gather", &["whole", "first"], &["y"]), "axis", 1),
    ];
    model(&graph(&nodes, &[longs("first", &[], &[0])], &[value("x", F32, &[0, 2])], &[value("y", I64, &[0])]))
}

#[test]
fn labels_that_are_texts_become_their_positions_and_dictionaries_plain_scores() {
    let scores = json!({ "name": "probability", "kind": "classification", "shape": ["batch", 2], "post": { "labels": ["worn", "sound"] } });
    let manifest = manifest(json!([label("output_label", &["sound", "odd", "worn"]), scores]));
    let mut engine = TractEngine::load_file(&dictionaries(), &manifest, 4).unwrap();
    for batch in [1, 4, 5] {
        let windows =
            [[3.0, 1.0], [1.0, 3.0]].into_iter().cycle().take(batch).flatten().collect::<Vec<f32>>();
        let outputs = engine.run(batch, &windows).unwrap();
        for (window, outputs) in outputs.chunks(3).enumerate() {
            let want = if window % 2 == 0 { [0.0, 1.0, 3.0] } else { [2.0, 3.0, 1.0] };
            assert_eq!(outputs, want);
        }
    }
}

#[test]
fn a_text_that_is_no_label_is_an_error_with_output_and_label() {
    let manifest = manifest(json!([label("output_label", &["sound", "odd"])]));
    let mut engine = TractEngine::load_file(&dictionaries(), &manifest, 1).unwrap();
    assert_eq!(engine.run(1, &[3.0, 1.0]).unwrap(), [0.0]);
    let error = engine.run(1, &[1.0, 3.0]).unwrap_err();
    let EngineError::Run(why) = &error else { panic!("{error}") };
    assert!(why.contains("`output_label` is `worn`") && why.contains("sound, odd"), "{why}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn integers_are_labels_by_their_text_or_else_positions(value in -4..5_i64, is_numbered: bool) {
        let labels = if is_numbered { ["-1", "3", "1"] } else { ["low", "middle", "high"] };
        let mut engine = TractEngine::load_file(&integers(), &manifest(json!([label("y", &labels)])), 1).unwrap();
        let want = if is_numbered {
            labels.iter().position(|label| *label == value.to_string())
        } else {
            usize::try_from(value).ok().filter(|position| *position < 3)
        };
        let found = engine.run(1, &[value as f32, 0.0]);
        match want {
            Some(position) => prop_assert_eq!(found.unwrap(), [position as f32]),
            None => prop_assert!(found.unwrap_err().to_string().contains("no label of the manifest")),
        }
    }
}

#[test]
fn a_label_of_floats_and_texts_that_are_no_label_are_refused() {
    let error = load_error(&weighted_sum(), &manifest(json!([label("y", &["a", "b"])])));
    assert!(error.contains("labels are texts or integers"), "{error}");
    let error = load_error(&dictionaries(), &manifest(json!([output("output_label", &[])])));
    assert!(error.contains("holds texts"), "{error}");
}

/// Scores of two classifiers as a sequence, as exporters write multi-output models.
fn sequence(insert: bool) -> Vec<u8> {
    let double = node("Add", &["x", "x"], &["double"]);
    let nodes = if insert {
        vec![
            double,
            node("SequenceEmpty", &[], &["s0"]),
            node("SequenceInsert", &["s0", "x"], &["s1"]),
            node("SequenceInsert", &["s1", "double"], &["s2"]),
            node("Identity", &["s2"], &["p"]),
        ]
    } else {
        vec![double, node("SequenceConstruct", &["x", "double"], &["p"])]
    };
    let outputs = [value("double", F32, &[0, 2]), Proto::default().text(1, "p")];
    model(&graph(&nodes, &[], &[value("x", F32, &[0, 2])], &outputs))
}

#[test]
fn a_sequence_becomes_an_output_for_each_of_its_tensors() {
    for insert in [false, true] {
        let manifest = manifest(json!([output("p.1", &[2]), output("p.0", &[2])]));
        let mut engine = TractEngine::load_file(&sequence(insert), &manifest, 4).unwrap();
        assert_eq!(engine.run(2, &[1.0, 2.0, 3.0, 4.0]).unwrap(), [2.0, 4.0, 1.0, 2.0, 6.0, 8.0, 3.0, 4.0]);
        let file = OnnxFile::read(&sequence(insert)).unwrap();
        let names: Vec<_> = file.outputs().into_iter().map(|output| output.name).collect();
        assert_eq!(names, ["double", "p.0", "p.1"]);
        assert!(file.refused_nodes().is_empty());
    }
}

#[test]
fn a_tensor_that_is_taken_out_of_a_sequence_is_found() {
    for (keepdims, shape) in [(1, vec![0, 1]), (0, vec![0])] {
        let split =
            with_int(with_int(node("SplitToSequence", &["x"], &["s"]), "axis", 1), "keepdims", keepdims);
        let nodes = [split, node("SequenceAt", &["s", "last"], &["y"])];
        let file = model(&graph(
            &nodes,
            &[longs("last", &[], &[-1])],
            &[value("x", F32, &[0, 2])],
            &[value("y", F32, &shape)],
        ));
        let shape: Vec<u32> = shape.iter().skip(1).map(|_| 1).collect();
        let mut engine = TractEngine::load_file(&file, &manifest(json!([output("y", &shape)])), 4).unwrap();
        assert_eq!(engine.run(2, &[1.0, 2.0, 3.0, 4.0]).unwrap(), [2.0, 4.0]);
    }
}

#[test]
fn what_does_anything_else_with_a_sequence_is_refused_by_name() {
    let nodes = [node("SequenceConstruct", &["x", "x"], &["s"]), node("SequenceLength", &["s"], &["y"])];
    let file = model(&graph(&nodes, &[], &[value("x", F32, &[0, 2])], &[value("y", I64, &[])]));
    let error = load_error(&file, &manifest(json!([output("y", &[])])));
    assert!(error.contains("operator `SequenceLength`"), "{error}");
    let many = vec!["x"; 100];
    let long = model(&graph(
        &[node("SequenceConstruct", &many, &["y"])],
        &[],
        &[value("x", F32, &[0, 2])],
        &[Proto::default().text(1, "y")],
    ));
    assert!(load_error(&long, &manifest(json!([output("y.0", &[2])]))).contains("more than 64 tensors"));
}

/// Classes before the batch, as exporters write multi-label neighbours: as many windows as classes have the same shape.
#[test]
fn an_output_whose_batch_is_not_first_is_run_window_by_window() {
    let nodes = [
        node("Add", &["x", "x"], &["double"]),
        node("Unsqueeze", &["x", "zero"], &["a"]),
        node("Unsqueeze", &["double", "zero"], &["b"]),
        with_int(node("Concat", &["a", "b", "a", "b"], &["y"]), "axis", 0),
    ];
    let file = model(&graph(
        &nodes,
        &[longs("zero", &[1], &[0])],
        &[value("x", F32, &[0, 2])],
        &[Proto::default().text(1, "y")],
    ));
    let mut engine = TractEngine::load_file(&file, &manifest(json!([output("y", &[4, 2])])), 4).unwrap();
    assert_eq!(engine.plan_sizes().collect::<Vec<_>>(), [1]);
    let outputs = engine.run(4, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).unwrap();
    assert_eq!(outputs[8..16], [3.0, 4.0, 6.0, 8.0, 3.0, 4.0, 6.0, 8.0]);
}

#[test]
fn the_classes_that_a_file_holds_are_found_from_its_outputs() {
    let file = OnnxFile::read(&dictionaries()).unwrap();
    assert_eq!(file.class_names("output_label").unwrap(), ["worn", "sound"]);
    assert_eq!(file.class_names("probability").unwrap(), ["worn", "sound"]);
    assert_eq!(file.class_names("nothing"), None);
    assert_eq!(OnnxFile::read(&weighted_sum()).unwrap().class_names("y"), None);
}

#[test]
fn classes_are_found_where_a_label_is_taken_from_a_list() {
    let nodes = [
        with_int(node("Softmax", &["x"], &["scores"]), "axis", 1),
        with_int(node("ArgMax", &["x"], &["best"]), "axis", 1),
        ml_node("ArrayFeatureExtractor", &["classes", "best"], &["chosen"]),
        node("Reshape", &["chosen", "flat"], &["label"]),
        node("Neg", &["x"], &["other"]),
    ];
    let constants = [longs("classes", &[2], &[7, 9]), longs("flat", &[1], &[-1])];
    let outputs = [value("label", I64, &[0]), value("scores", F32, &[0, 2]), value("other", F32, &[0, 2])];
    let file = model(&graph(&nodes, &constants, &[value("x", F32, &[0, 2])], &outputs));
    let found = OnnxFile::read(&file).unwrap();
    assert_eq!(found.class_names("label").unwrap(), ["7", "9"]);
    assert_eq!(found.class_names("scores").unwrap(), ["7", "9"]);
    assert_eq!(found.class_names("other"), None);
    let mut engine =
        TractEngine::load_file(&file, &manifest(json!([label("label", &["9", "7"])])), 4).unwrap();
    assert_eq!(engine.run(2, &[1.0, 2.0, 4.0, 3.0]).unwrap(), [0.0, 1.0]);
}

#[test]
fn scores_of_pairs_of_classes_have_no_names() {
    let machine = |prob: &[f32]| {
        let svm = ml_node("SVMClassifier", &["x"], &["label", "scores"]);
        let svm = with_texts(svm, "classlabels_strings", &["a", "b", "c"]);
        let svm = with_floats(svm, "prob_a", prob);
        let svm = with_floats(svm, "support_vectors", &[1.0; 6]);
        let outputs = [value("label", STRING, &[0]), value("scores", F32, &[0, 3])];
        OnnxFile::read(&model(&graph(&[svm], &[], &[value("x", F32, &[0, 2])], &outputs))).unwrap()
    };
    assert_eq!(machine(&[]).class_names("label").unwrap(), ["a", "b", "c"]);
    assert_eq!(machine(&[]).class_names("scores"), None);
    assert_eq!(machine(&[1.0; 3]).class_names("scores").unwrap(), ["a", "b", "c"]);
}

/// The engine keeps integers of a `Cast` as sizes; operators of our own take them all the same.
#[test]
fn integers_that_the_engine_keeps_as_sizes_reach_the_operators() {
    let encoder = with_texts(
        with_ints(ml_node("LabelEncoder", &["whole"], &["y"]), "keys_int64s", &[2, 5]),
        "values_strings",
        &["low", "high"],
    );
    let nodes = [
        with_int(node("Cast", &["x"], &["all"]), "to", I64),
        with_int(node("Gather", &["all", "first"], &["whole"]), "axis", 1),
        encoder,
    ];
    let graph =
        graph(&nodes, &[longs("first", &[], &[0])], &[value("x", F32, &[0, 2])], &[value("y", STRING, &[0])]);
    let file = model(&graph);
    let mut engine =
        TractEngine::load_file(&file, &manifest(json!([label("y", &["high", "low"])])), 1).unwrap();
    assert_eq!(
        [engine.run(1, &[2.0, 0.0]).unwrap(), engine.run(1, &[5.0, 0.0]).unwrap()].concat(),
        [1.0, 0.0]
    );
}
