//! Evidence: whatever is done to a validly signed set, nothing verifies but what enough keys approved.
//!
//! The input is a list of changes: bytes and parts of the files, files in each other's place, contents that are signed
//! anew by some of the keys. One owner's key stands in the root under two names, in two spellings.

#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use dunlin_trust::metadata::{
    DelegatedRole, Delegations, Role, RoleKeys, Root, SPEC_VERSION, TargetDescription, Targets,
};
use dunlin_trust::sign::{self, SigningKey};
use dunlin_trust::time::UnixTime;
use dunlin_trust::{Digest, Evidence, KeyId, PublicKey};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const OWN: &str = "models/frost/1.0.0/manifest.json";
const TEAMS: &str = "models/team/1.0.0/manifest.json";
const CONTENTS: [(&str, &[u8]); 2] = [(OWN, b"own"), (TEAMS, b"team")];

/// The first two are the owner's, the third is the team's, the fourth nobody's.
static KEYS: LazyLock<[SigningKey; 4]> =
    LazyLock::new(|| [1, 2, 3, 4].map(|n| SigningKey::from_seed(&[n; 32])));
static SIGNED: LazyLock<Signed> = LazyLock::new(Signed::new);

struct Signed {
    anchor: Digest,
    evidence: [Evidence; 2],
}

fuzz_target!(|data: &[u8]| {
    let _ = check(&mut Unstructured::new(data));
});

fn check(choices: &mut Unstructured<'_>) -> Result<()> {
    let which = choices.int_in_range(0..=1)?;
    let (mut evidence, mut bytes) = (SIGNED.evidence[which].clone(), CONTENTS[which].1.to_vec());
    let mut approved: Vec<(String, Vec<u8>)> =
        CONTENTS.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect();
    while !choices.is_empty() && evidence.roles.len() < 16 {
        match choices.int_in_range(0..=7)? {
            0 => evidence.target = (*choices.choose(&[OWN, TEAMS, "models/other", ""])?).to_owned(),
            1 => change(choices, &mut bytes)?,
            2 => change_text(choices, &mut evidence.root)?,
            3 => {
                let index = choices.choose_index(evidence.roles.len().max(1))?;
                if let Some(role) = evidence.roles.get_mut(index) {
                    change_text(choices, role)?;
                }
            }
            4 => {
                let index = choices.choose_index(evidence.roles.len() + 1)?;
                evidence.roles.insert(index, pool(choices)?);
            }
            5 => {
                evidence.roles.pop();
            }
            6 => evidence.root = pool(choices)?,
            _ => sign_anew(choices, &mut evidence, &mut bytes, &mut approved)?,
        }
        verify(&evidence, &bytes, &approved);
    }
    verify(&evidence, &bytes, &approved);
    Ok(())
}

fn verify(evidence: &Evidence, bytes: &[u8], approved: &[(String, Vec<u8>)]) {
    let Ok(file) = evidence.verify(&SIGNED.anchor, bytes.to_vec()) else { return };
    assert_eq!((file.path.as_str(), file.bytes.as_slice()), (evidence.target.as_str(), bytes));
    let is_approved = approved.iter().any(|(path, bytes)| *path == file.path && *bytes == file.bytes);
    assert!(is_approved, "`{}` was approved by nobody", file.path);
    assert_eq!(Digest::of(file.evidence.root.as_bytes()), SIGNED.anchor);
    // The proof proves again: it is what is kept beside the file.
    assert!(file.evidence.verify(&SIGNED.anchor, bytes.to_vec()).is_ok());
}

fn pool(choices: &mut Unstructured<'_>) -> Result<String> {
    let evidence = &SIGNED.evidence[1];
    let all: Vec<&String> = evidence.roles.iter().chain([&evidence.root]).collect();
    Ok((*choices.choose(&all)?).clone())
}

fn change_text(choices: &mut Unstructured<'_>, text: &mut String) -> Result<()> {
    let mut bytes = std::mem::take(text).into_bytes();
    change(choices, &mut bytes)?;
    *text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(())
}

/// Puts some bytes in the place of some others.
fn change(choices: &mut Unstructured<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    let start = choices.int_in_range(0..=bytes.len())?;
    let end = choices.int_in_range(start..=bytes.len().min(start + 64))?;
    let length = choices.int_in_range(0..=32)?;
    let put = choices.bytes(length.min(choices.len()))?.to_vec();
    bytes.splice(start..end, put);
    Ok(())
}

/// Signs other contents under one of the paths by some of the keys; they are approved if both of the owner's sign.
fn sign_anew(
    choices: &mut Unstructured<'_>,
    evidence: &mut Evidence,
    bytes: &mut Vec<u8>,
    approved: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    let path = *choices.choose(&[OWN, TEAMS])?;
    let signers: u8 = choices.arbitrary()?;
    let with_both_names: bool = choices.arbitrary()?;
    *bytes = b"another".to_vec();
    let role = targets(path, bytes, None);
    let keys: Vec<&SigningKey> =
        KEYS.iter().enumerate().filter(|(i, _)| signers >> i & 1 == 1).map(|(_, k)| k).collect();
    let mut text = text_of(&role, &keys);
    if with_both_names && signers & 1 == 1 {
        text = add_second_name(&text);
    }
    evidence.target = path.to_owned();
    // In the place of the top-level role or of the team's.
    let place = choices.int_in_range(0..=1)?;
    match evidence.roles.get_mut(place) {
        Some(role) => *role = text,
        None => evidence.roles.push(text),
    }
    let by_owner = signers & 3 == 3;
    let by_team = path == TEAMS && signers & 4 == 4;
    if by_owner || by_team {
        approved.push((path.to_owned(), bytes.clone()));
    }
    Ok(())
}

/// The first owner's signature once more, under its key's other name.
fn add_second_name(text: &str) -> String {
    let mut file: serde_json::Value = serde_json::from_str(text).expect("metadata are JSON");
    let signatures = file["signatures"].as_array_mut().expect("there are signatures");
    let mut second = signatures[0].clone();
    second["keyid"] = "second".into();
    signatures.push(second);
    file.to_string()
}

impl Signed {
    fn new() -> Self {
        let [first, other, team, _] = &*KEYS;
        let spelled = PublicKey::clone(&first.public());
        let mut second = spelled;
        second.keyval.public = second.keyval.public.to_uppercase();
        let second_id = KeyId("second".to_owned());
        let keys = BTreeMap::from([
            (first.public().id(), first.public()),
            (second_id.clone(), second),
            (other.public().id(), other.public()),
        ]);
        let role =
            RoleKeys { keyids: vec![first.public().id(), second_id, other.public().id()], threshold: 2 };
        let root = Root {
            kind: Root::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version: 1,
            expires: UnixTime(4_000_000_000),
            signed_at: None,
            consistent_snapshot: true,
            keys,
            roles: ["root", "timestamp", "snapshot", "targets"].map(|n| (n.to_owned(), role.clone())).into(),
        };
        let delegations = Delegations {
            keys: BTreeMap::from([(team.public().id(), team.public())]),
            roles: Some(vec![DelegatedRole {
                name: "team".to_owned(),
                keyids: vec![team.public().id()],
                threshold: 1,
                terminating: false,
                paths: Some(vec!["models/team/*/manifest.json".to_owned()]),
                path_hash_prefixes: None,
            }]),
            succinct_roles: None,
        };
        let root = text_of(&root, &[first, other]);
        let top = text_of(&targets(OWN, CONTENTS[0].1, Some(delegations)), &[first, other]);
        let teams = text_of(&targets(TEAMS, CONTENTS[1].1, None), &[team]);
        let own = Evidence { target: OWN.to_owned(), root: root.clone(), roles: vec![top.clone()] };
        let teams = Evidence { target: TEAMS.to_owned(), root: root.clone(), roles: vec![top, teams] };
        let anchor = Digest::of(root.as_bytes());
        for (evidence, (_, bytes)) in [&own, &teams].into_iter().zip(CONTENTS) {
            evidence.verify(&anchor, bytes.to_vec()).expect("what was signed verifies");
        }
        Self { anchor, evidence: [own, teams] }
    }
}

fn targets(path: &str, bytes: &[u8], delegations: Option<Delegations>) -> Targets {
    Targets {
        kind: Targets::TYPE.to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version: 1,
        expires: UnixTime(4_000_000_000),
        signed_at: None,
        custom: None,
        targets: BTreeMap::from([(path.to_owned(), TargetDescription::of(bytes, None))]),
        delegations,
    }
}

fn text_of<R: Role>(role: &R, keys: &[&SigningKey]) -> String {
    String::from_utf8(sign::sign(role, keys)).expect("JSON is text")
}
