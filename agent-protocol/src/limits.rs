//! How much of anything a message may hold, so that neither side can fill the other's memory or keep it busy.
//!
//! Constants with their derivation. They are part of version 1: a later build may raise what it reads, never what it
//! writes to a peer of which it does not know better.

/// Longest payload of a device's message, as plain JSON. The longest single prediction, 65,536 outputs of up to 15
/// characters, fits; so do some 10,000 usual ones. Parsed it takes at most eight times this, and a server of two cores
/// parses few at a time.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Longest payload of a server's answer, as plain JSON: a statement of the director for a gateway with 64 models is under
/// 128 KiB; the rest is for roots after a long absence, of which a server sends as many as fit.
pub const ANSWER_BYTES_MAX: usize = 2 << 20;
/// Longest payload of an enrolment, either way: facts are texts of 128 bytes.
pub const ENROLMENT_BYTES_MAX: usize = 64 << 10;
/// Bytes of an envelope beside its payload in base64: the type, and [`SIGNATURES_MAX`] signatures of some 250 bytes.
pub const ENVELOPE_OVERHEAD_BYTES: usize = 4 << 10;
/// Most signatures of an envelope: one by the key, one proof of a token, two for what later versions add. A check costs
/// some 60 µs on a server.
pub const SIGNATURES_MAX: usize = 4;
/// Longest key id of a signature: 64 hexadecimal digits of a key of the director, and room for other schemes.
pub const KEY_ID_BYTES_MAX: usize = 128;
/// Longest payload type.
pub const PAYLOAD_TYPE_BYTES_MAX: usize = 128;
/// Deepest nesting of a message: our own go down to 9.
pub const DEPTH_MAX: usize = 32;

/// Largest number that is written as a JSON number: what every language's double holds exactly.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;
/// Remembered counters of a device, within which a server tells a copied device from an old card.
pub const COUNTERS_REMEMBERED: usize = 64;

/// Most batches of a message: each stream twice (live and backfill) and room for more streams.
pub const BATCHES_MAX: usize = 32;
/// Most rows of a batch: 13 minutes of ten predictions a second; some 250 KiB of JSON with eight outputs each.
pub const ROWS_MAX: usize = 8_192;
/// Most sequence numbers that a batch answers for. Larger than [`ROWS_MAX`], since rows that a policy held back take no
/// room: a year of a hundred a second.
pub const NUMBERS_MAX: u64 = 1 << 32;
/// Most values of a column that holds several a row, as outputs: as many as fit a message at two bytes each.
pub const VALUES_MAX: usize = REQUEST_BYTES_MAX / 2;
/// Most entries of a batch's dictionary of instances: a gateway with a thousand series.
pub const INSTANCES_MAX: usize = 1_024;
/// Most texts of a batch's dictionary.
pub const TEXTS_MAX: usize = 1_024;
/// Most labels of one instance; a class is a label.
pub const CLASSES_MAX: usize = 4_096;
/// Most tags of a series key.
pub const TAGS_MAX: usize = 16;
/// Most outputs of a model, as in its manifest.
pub const OUTPUTS_MAX: usize = 64;
/// Most values of one prediction, as in its manifest.
pub const OUTPUT_VALUES_MAX: usize = 65_536;
/// Most entries of a batch's dictionary of profiles: one a model and lane, twice over.
pub const PROFILES_MAX: usize = 256;
/// Most bytes of a window's summaries: 131 of them, 64 features and 64 outputs among them, at 65 bins each take 96 KiB at
/// the very worst; 40 bytes each are usual.
pub const WINDOW_BYTES_MAX: usize = 128 << 10;

/// Most ranges of a list of ranges: gaps come from lost messages and hold-backs, and close again. A list that is longer
/// is cut to its lowest ranges, and said in full later.
pub const RANGES_MAX: usize = 1_024;
/// Most receipts or rejections of an answer: one a batch and as many again.
pub const RECEIPTS_MAX: usize = 64;
/// Most things that one answer asks for.
pub const ASKS_MAX: usize = 16;
/// Most roots of the director in one answer; the next exchange brings more.
pub const ROOTS_MAX: usize = 16;
/// Longest file of metadata within an answer.
pub const METADATA_BYTES_MAX: usize = 1 << 20;

/// Most models of a gateway: each takes a process or two, and the smallest takes some 10 MiB.
pub const MODELS_MAX: usize = 64;
/// Most releases that are reported as bad, a model.
pub const BAD_RELEASES_MAX: usize = 16;
/// Most lanes of a model: two, and room for more.
pub const LANES_MAX: usize = 4;
/// Most refusals of a report: one for the metadata and one a model.
pub const REFUSALS_MAX: usize = MODELS_MAX + 1;
/// Most labels of a device.
pub const LABELS_MAX: usize = 64;
/// Most purposes that bytes are metered by.
pub const PURPOSES_MAX: usize = 16;
/// Most streams of a list by stream.
pub const STREAMS_MAX: usize = 16;
/// Most versions, formats or features of a list of such.
pub const SUPPORTED_MAX: usize = 32;

/// Longest name: of a model, a host, a board, a label, a version.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest code, as in `rolled_back:invalid_output`, and longest value of an enumeration.
pub const CODE_BYTES_MAX: usize = 64;
/// Longest explanation for people: 400 characters of up to four bytes.
pub const WORDS_BYTES_MAX: usize = 1_600;
/// Longest URL.
pub const URL_BYTES_MAX: usize = 512;
/// Longest value of a tag: it may be a level of a topic, which has 1,024 bytes at most.
pub const TAG_VALUE_BYTES_MAX: usize = 1_024;
/// Longest path of a target, as in The Update Framework's part.
pub const PATH_BYTES_MAX: usize = 1_024;
/// Longest enrolment token, as text: a URL and a group in base64, and the secret.
pub const TOKEN_BYTES_MAX: usize = 2_048;

/// Longest long poll, in seconds: proxies and address translation drop what is silent for 60 s.
pub const WAIT_SECONDS_MAX: u64 = 50;
/// Longest time to the next exchange that a server may ask for: a week. A device comes back then in any case.
pub const NEXT_MS_MAX: u64 = 7 * 24 * 3_600 * 1_000;

/// Returns the longest envelope around a payload of at most `payload_bytes_max`: base64 makes four bytes of three.
#[must_use]
pub const fn envelope_bytes_max(payload_bytes_max: usize) -> usize {
    payload_bytes_max.div_ceil(3) * 4 + ENVELOPE_OVERHEAD_BYTES
}
