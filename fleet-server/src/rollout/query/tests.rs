//! Queries as they are written, printed and evaluated.

use proptest::prelude::*;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn matches(query: &str, pairs: &[(&str, &str)]) -> bool {
    query.parse::<Query>().unwrap().matches(&labels(pairs))
}

#[test]
fn queries_mean_what_they_say() {
    let pump = [("site", "plant-1"), ("board", "pi4-2g"), ("model", "pump")];
    for (query, expected) in [
        ("*", true),
        ("site", true),
        ("!site", false),
        ("canary", false),
        ("site=plant-1", true),
        ("site = \"plant-1\"", true),
        ("site!=plant-1", false),
        ("canary!=yes", true),
        ("board~pi4*", true),
        ("board~\"*2g\"", true),
        ("board~*i*-*", true),
        ("board~pi4", false),
        ("board~pi*5*", false),
        ("model in (pump, fan)", true),
        ("model in (fan)", false),
        ("site=plant-1 && (board~\"pi4*\" || !canary) && model in (pump, fan)", true),
        ("site=plant-2 || board~pi4* && model=fan", false),
        ("(site=plant-2 || board~pi4*) && model=pump", true),
        ("!(site=plant-1 && model=pump)", false),
        ("!!site", true),
    ] {
        assert_eq!(matches(query, &pump), expected, "{query}");
    }
}

#[test]
fn what_is_no_query_is_refused_where_it_goes_wrong() {
    for (text, position) in [
        ("", 0),
        ("site=", 5),
        ("site==x", 5),
        ("(site", 5),
        ("site)", 4),
        ("site &", 5),
        ("a in ()", 6),
        ("a in (b", 7),
        ("a \"b", 2),
        ("\"open", 0),
        ("a~", 2),
        ("ä", 0),
    ] {
        let error = text.parse::<Query>().unwrap_err();
        assert_eq!(error.position, position, "{text}: {error}");
    }
    assert!("(".repeat(2_000).parse::<Query>().unwrap_err().reason.contains("nested"));
    assert!("!".repeat(2_000).parse::<Query>().unwrap_err().reason.contains("nested"));
    assert!("a".repeat(QUERY_BYTES_MAX + 1).parse::<Query>().unwrap_err().reason.contains("longer"));
    assert!("a".repeat(LABEL_BYTES_MAX + 1).parse::<Query>().unwrap_err().reason.contains("longer"));
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,3}", "[a-z \"\\\\*()!=~&|é]{0,6}", Just("in".to_owned())]
}

fn nodes() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        Just(Node::All),
        texts().prop_map(Node::Has),
        (texts(), prop::collection::vec(texts(), 1..3)).prop_map(|(name, values)| Node::In(name, values)),
        (texts(), texts()).prop_map(|(name, form)| Node::Like(name, form)),
    ];
    leaf.prop_recursive(4, 20, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|node| Node::Not(Box::new(node))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Node::And),
            prop::collection::vec(inner, 2..4).prop_map(Node::Or),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(node in nodes()) {
        let query = Query(node);
        prop_assert_eq!(query.to_string().parse::<Query>().unwrap(), query);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[a-c=!~&|()*\", in]{0,40}") {
        if let Ok(query) = text.parse::<Query>() {
            prop_assert_eq!(query.to_string().parse::<Query>().unwrap(), query);
        }
    }

    #[test]
    fn a_form_is_like_the_texts_that_fill_its_stars(parts in prop::collection::vec("[ab]{0,3}", 1..4), fill in "[abc]{0,4}") {
        prop_assert!(is_like(&parts.join(&fill), &parts.join("*")));
        let plain = parts.concat();
        prop_assert_eq!(is_like(&plain, &format!("{plain}c")), false);
    }
}
