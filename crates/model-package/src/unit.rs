//! Units of measurement and the linear conversions between them.
//!
//! Knows the SenML names (RFC 8428, RFC 8798) and the UCUM codes that sensors use. Refuses what it does not know to
//! convert; never guesses.

/// `value_in_base = value * scale + offset` within one dimension.
struct Unit {
    names: &'static [&'static str],
    dimension: &'static str,
    scale: f64,
    offset: f64,
}

const fn unit(names: &'static [&'static str], dimension: &'static str, scale: f64, offset: f64) -> Unit {
    Unit { names, dimension, scale, offset }
}

/// Known units. Source: the SenML units registry and UCUM; factors from the SI brochure.
const UNITS: &[Unit] = &[
    unit(&["K"], "temperature", 1.0, 0.0),
    unit(&["Cel", "degC", "°C"], "temperature", 1.0, 273.15),
    unit(&["degF", "[degF]", "°F"], "temperature", 5.0 / 9.0, 459.67 * 5.0 / 9.0),
    unit(&["/", "1"], "ratio", 1.0, 0.0),
    unit(&["%", "%RH", "%EL"], "ratio", 0.01, 0.0),
    unit(&["ppm", "[ppm]"], "ratio", 1e-6, 0.0),
    unit(&["ppb", "[ppb]"], "ratio", 1e-9, 0.0),
    unit(&["Pa"], "pressure", 1.0, 0.0),
    unit(&["hPa", "mbar"], "pressure", 1e2, 0.0),
    unit(&["kPa"], "pressure", 1e3, 0.0),
    unit(&["bar"], "pressure", 1e5, 0.0),
    unit(&["psi", "[psi]"], "pressure", 6_894.757_293_168, 0.0),
    unit(&["m"], "length", 1.0, 0.0),
    unit(&["mm"], "length", 1e-3, 0.0),
    unit(&["cm"], "length", 1e-2, 0.0),
    unit(&["km"], "length", 1e3, 0.0),
    unit(&["m/s"], "speed", 1.0, 0.0),
    unit(&["mm/s"], "speed", 1e-3, 0.0),
    unit(&["km/h"], "speed", 1.0 / 3.6, 0.0),
    unit(&["m/s2", "m/s^2"], "acceleration", 1.0, 0.0),
    unit(&["[g]", "gn"], "acceleration", 9.806_65, 0.0),
    unit(&["s"], "time", 1.0, 0.0),
    unit(&["ms"], "time", 1e-3, 0.0),
    unit(&["min"], "time", 60.0, 0.0),
    unit(&["h"], "time", 3_600.0, 0.0),
    unit(&["kg"], "mass", 1.0, 0.0),
    unit(&["g"], "mass", 1e-3, 0.0),
    unit(&["V"], "voltage", 1.0, 0.0),
    unit(&["mV"], "voltage", 1e-3, 0.0),
    unit(&["A"], "current", 1.0, 0.0),
    unit(&["mA"], "current", 1e-3, 0.0),
    unit(&["W"], "power", 1.0, 0.0),
    unit(&["mW"], "power", 1e-3, 0.0),
    unit(&["kW"], "power", 1e3, 0.0),
    unit(&["J"], "energy", 1.0, 0.0),
    unit(&["Wh"], "energy", 3.6e3, 0.0),
    unit(&["kWh"], "energy", 3.6e6, 0.0),
    unit(&["Hz", "1/s"], "frequency", 1.0, 0.0),
    unit(&["kHz"], "frequency", 1e3, 0.0),
    unit(&["1/min", "rpm"], "frequency", 1.0 / 60.0, 0.0),
    unit(&["l"], "volume", 1e-3, 0.0),
    unit(&["m3"], "volume", 1.0, 0.0),
    unit(&["l/s"], "flow", 1e-3, 0.0),
    unit(&["m3/s"], "flow", 1.0, 0.0),
    unit(&["m3/h"], "flow", 1.0 / 3_600.0, 0.0),
    unit(&["l/min"], "flow", 1e-3 / 60.0, 0.0),
    unit(&["mg/m3"], "concentration", 1.0, 0.0),
    unit(&["ug/m3"], "concentration", 1e-3, 0.0),
    unit(&["g/m3"], "concentration", 1e3, 0.0),
    unit(&["rad"], "angle", 1.0, 0.0),
    unit(&["deg"], "angle", std::f64::consts::PI / 180.0, 0.0),
    unit(&["lx"], "illuminance", 1.0, 0.0),
    unit(&["dB"], "level", 1.0, 0.0),
    unit(&["count"], "count", 1.0, 0.0),
];

/// A linear conversion: `to = from * scale + offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conversion {
    /// Factor.
    pub scale: f64,
    /// Summand, in the target's unit.
    pub offset: f64,
}

impl Conversion {
    /// The conversion that changes nothing.
    pub const IDENTITY: Self = Self { scale: 1.0, offset: 0.0 };

    /// Returns the converted value.
    #[must_use]
    pub fn apply(self, value: f64) -> f64 {
        if self == Self::IDENTITY { value } else { value * self.scale + self.offset }
    }
}

/// Returns the conversion from one unit to the other, or `None` where there is no known linear one.
#[must_use]
pub fn conversion(from: &str, to: &str) -> Option<Conversion> {
    if from == to {
        return Some(Conversion::IDENTITY);
    }
    let find = |name: &str| UNITS.iter().find(|unit| unit.names.contains(&name));
    let (from, to) = (find(from)?, find(to)?);
    if from.dimension != to.dimension {
        return None;
    }
    if from.scale == to.scale && from.offset == to.offset {
        return Some(Conversion::IDENTITY);
    }
    Some(Conversion { scale: from.scale / to.scale, offset: (from.offset - to.offset) / to.scale })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_units_are_converted() {
        for (from, to, value, expected) in [
            ("Cel", "degF", 100.0, 212.0),
            ("degF", "Cel", 32.0, 0.0),
            ("%RH", "/", 45.0, 0.45),
            ("hPa", "kPa", 1013.0, 101.3),
            ("km/h", "m/s", 36.0, 10.0),
        ] {
            let converted = conversion(from, to).unwrap().apply(value);
            assert!((converted - expected).abs() < 1e-9, "{value} {from} = {converted} {to}");
        }
    }

    #[test]
    fn what_cannot_be_converted_is_refused() {
        assert_eq!(conversion("Cel", "Pa"), None);
        assert_eq!(conversion("Cel", "furlong"), None);
        assert_eq!(conversion("smoots", "smoots"), Some(Conversion::IDENTITY));
    }
}
