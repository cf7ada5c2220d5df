//! Whether a release fits this gateway: processor, engine, name.
//!
//! Pure. Whether it fits the configuration's fields and units is the pipeline's to say when the release is admitted.

use dunlin_model_package::Manifest;
use dunlin_trust::Code;
use dunlin_trust::director::Device;

use super::refusal::Refusal;

/// The engine of this build and its version, as manifests name them.
pub const ENGINE: &str = "tract-onnx 0.23.9";

/// Returns what this device is; its identity is none as long as no server knows it.
#[must_use]
pub fn this_device() -> Device {
    Device { id: String::new(), architecture: std::env::consts::ARCH.to_owned(), engine: ENGINE.to_owned() }
}

/// Checks a release's architectures against the device's; none named: any.
///
/// *Errors*: `incompatible`.
pub fn require_architecture(architectures: &[String], device: &Device, object: &str) -> Result<(), Refusal> {
    if architectures.is_empty() || architectures.contains(&device.architecture) {
        return Ok(());
    }
    let reason = format!("is for {}; this gateway is `{}`", architectures.join(", "), device.architecture);
    Err(Refusal::trust(Code::Incompatible, object, reason))
}

/// Checks that the manifest is of this model, and that the device's engine is the one it needs and not older.
///
/// *Errors*: `incompatible`.
pub fn require_fit(manifest: &Manifest, model: &str, device: &Device) -> Result<(), Refusal> {
    let object = manifest.target_path();
    if manifest.name != model {
        let reason = format!("is of the model `{}`, not `{model}`", manifest.name);
        return Err(Refusal::trust(Code::Incompatible, object, reason));
    }
    require_architecture(&manifest.requirements.architectures, device, &object)?;
    let Some(needed) = &manifest.requirements.engine else { return Ok(()) };
    let fits = matches!((version_of(needed), version_of(&device.engine)),
        (Some((name, oldest)), Some((engine, version))) if name == engine && oldest <= version);
    if fits {
        return Ok(());
    }
    let reason = format!("needs the engine `{needed}`; this gateway has `{}`", device.engine);
    Err(Refusal::trust(Code::Incompatible, object, reason))
}

/// Reads `NAME VERSION`, as in `tract-onnx 0.23.1`.
fn version_of(engine: &str) -> Option<(&str, Vec<u64>)> {
    let (name, version) = engine.split_once(' ')?;
    let numbers: Option<Vec<u64>> = version.split('.').map(|number| number.parse().ok()).collect();
    // `0.23.0` is `0.23`.
    let mut numbers = numbers?;
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    Some((name, numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_the_one_that_is_built_in() {
        let dependencies = include_str!("../../../Cargo.toml");
        let (name, version) = ENGINE.split_once(' ').unwrap();
        assert!(dependencies.contains(&format!("{name} = {{ version = \"{version}\"")), "{ENGINE}");
    }

    #[test]
    fn engines_are_compared_by_name_and_number() {
        for (needed, fits) in [
            ("tract-onnx 0.23", true),
            ("tract-onnx 0.23.0", true),
            ("tract-onnx 0.9", true),
            ("tract-onnx 0.24", false),
            ("tract-onnx 1", false),
            ("tract-onnx 0.23.10", false),
            ("other 0.1", false),
            ("tract-onnx", false),
            ("tract-onnx x", false),
            ("", false),
        ] {
            let manifest = manifest(needed);
            assert_eq!(require_fit(&manifest, "m", &this_device()).is_ok(), fits, "{needed}");
        }
    }

    fn manifest(engine: &str) -> Manifest {
        let text = serde_json::json!({
            "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 1 },
            "inputs": [{ "name": "x", "shape": ["batch", 1], "features": [{ "name": "a" }] }],
            "outputs": [{ "name": "y", "kind": "vector", "shape": ["batch", 1] }],
            "requirements": { "engine": engine },
            "blobs": { "model.onnx": { "sha256": dunlin_model_package::Digest::of(b""), "bytes": 0 } }
        });
        Manifest::parse(text.to_string().as_bytes()).unwrap()
    }
}
