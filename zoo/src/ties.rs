//! Rows that lie at a tie of rounding, of networks that take the range of their quantisers from the values of a run.
//!
//! There the last bit of a sum decides to which quantum a value goes, and the rest of the network follows. Such a row
//! agrees where ONNX Runtime itself gives our values for inputs that differ by less than a sensor can tell: our result is
//! then the right one of such a neighbour. Never looks at other models.

use dunlin_pipeline::engine::{Engine, TractEngine};

use crate::comparison::{is_row_near, ranges};
use crate::peer::{Column, Peer};
use crate::rows::Rows;

/// What the names of all operators begin with that take a range from the values of a run.
const DYNAMIC: &[u8] = b"DynamicQuantize";
/// How far inputs are moved, relative to each: half a step of a 16-bit converter, finer than sensors are.
const NEIGHBOUR: f32 = 1.0 / (1 << 17) as f32;
/// Neighbours that are tried: with one value at a tie half of them fall to the other side, with several fewer.
const NEIGHBOURS: usize = 512;
/// Rows that may lie at a tie: more are a fault.
const ROWS_MAX: usize = 10;

/// Returns the rows that differ and lie at a tie; none where a row differs that does not, or the model is not one of these.
///
/// *Errors*: an engine's.
pub(crate) fn find(
    model: &[u8],
    engine: &mut TractEngine,
    peer: &mut Peer,
    rows: &Rows,
    theirs: &[Column],
) -> Result<Vec<usize>, String> {
    if !model.windows(DYNAMIC.len()).any(|part| part == DYNAMIC) {
        return Ok(Vec::new());
    }
    let ranges = ranges(theirs);
    let mut found = Vec::new();
    for row in 0..rows.count {
        let ours = engine.run(1, &rows.windows(row, 1)).map_err(|error| format!("row {row}: {error}"))?;
        if is_row_near(&ours, theirs, row, &ranges) {
            continue;
        }
        let neighbours = peer.outputs(&neighbours(rows, row))?;
        let is_at_tie = (0..NEIGHBOURS).any(|other| is_row_near(&ours, &neighbours, other, &ranges));
        if !is_at_tie || found.len() == ROWS_MAX {
            return Ok(Vec::new());
        }
        found.push(row);
    }
    Ok(found)
}

/// Returns copies of a row whose values are moved a little each.
fn neighbours(rows: &Rows, row: usize) -> Rows {
    // The constants of Knuth's MMIX: any generator does.
    let mut state = 1_u64;
    let mut moved = |value: f32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
        value + value * unit * NEIGHBOUR
    };
    let mut copies = Rows { count: NEIGHBOURS, inputs: Vec::new() };
    for input in &rows.inputs {
        let values = (0..NEIGHBOURS).flat_map(|_| input.slice(row, 1)).map(|value| moved(*value)).collect();
        copies.inputs.push(crate::rows::Input { values, ..input.clone() });
    }
    copies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Input;

    #[test]
    fn neighbours_are_close_and_not_all_the_same() {
        let input = Input { name: None, axes: vec![2], values: vec![9.0, 9.0, 1.0, -1000.0] };
        let copies = neighbours(&Rows { count: 2, inputs: vec![input] }, 1);
        assert_eq!((copies.count, copies.inputs[0].values.len()), (NEIGHBOURS, 2 * NEIGHBOURS));
        let (ones, _) = copies.inputs[0].values.as_chunks::<2>();
        assert!(ones.iter().all(|[a, b]| (a - 1.0).abs() < 8e-6 && (b / -1000.0 - 1.0).abs() < 8e-6));
        assert!(ones.iter().any(|[a, _]| *a > 1.0) && ones.iter().any(|[a, _]| *a < 1.0));
    }
}
