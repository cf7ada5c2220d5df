//! The walk of one direction through its sequences, step by step.
//!
//! All steps run in one call for the widest vectors of the machine. Rows that are shorter than the others keep their last
//! state and give zeros after it. Never computes a gate: the cells do.

use super::super::super::vectors::{Arithmetic, Loops, on_widest};
use super::cell::{Buffers, Cell, Place};
use super::form::{Direction, Layout};

/// How the inputs and the outputs of every step lie in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) layout: Layout,
    pub(super) direction: Direction,
    /// Of the direction among the others.
    pub(super) position: usize,
    pub(super) directions: usize,
    pub(super) steps: usize,
    pub(super) batch: usize,
    /// Values of an input.
    pub(super) size: usize,
}

/// One direction of one run.
pub(super) struct Walk<'a, C> {
    pub(super) cell: &'a C,
    pub(super) places: Places,
    /// Steps of each row.
    pub(super) lengths: &'a [usize],
    pub(super) x: &'a [f32],
    /// The initial state, then the last.
    pub(super) buffers: &'a mut Buffers,
    /// The states of all steps, where they are wanted.
    pub(super) written: Option<&'a mut [f32]>,
}

impl Places {
    /// Returns the time of a row's step: a reverse walk begins at the row's own end.
    #[inline(always)]
    fn time(&self, length: usize, step: usize) -> usize {
        match self.direction {
            Direction::Forward => step,
            Direction::Reverse => length - 1 - step,
        }
    }

    #[inline(always)]
    fn input(&self, row: usize, time: usize) -> usize {
        let at = match self.layout {
            Layout::StepsFirst => time * self.batch + row,
            Layout::BatchFirst => row * self.steps + time,
        };
        at * self.size
    }

    #[inline(always)]
    fn output(&self, row: usize, time: usize) -> usize {
        match self.layout {
            Layout::StepsFirst => (time * self.directions + self.position) * self.batch + row,
            Layout::BatchFirst => (row * self.steps + time) * self.directions + self.position,
        }
    }
}

impl<C: Cell> Walk<'_, C> {
    /// Takes all steps.
    pub(super) fn run(self) {
        on_widest(self);
    }

    #[inline(always)]
    fn all<A: Arithmetic, const WIDTH: usize, const ROWS: usize>(&mut self) {
        let batch = self.places.batch;
        let panels = self.buffers.stride / WIDTH;
        // Beyond the longest row there is nothing to do.
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        for step in 0..longest {
            for pass in 0..self.cell.passes() {
                // A panel's weights stay in the first cache for all rows.
                for panel in 0..panels {
                    let mut row = 0;
                    while row + ROWS <= batch {
                        self.some::<A, WIDTH, ROWS>(step, pass, panel, row);
                        row += ROWS;
                    }
                    while row < batch {
                        self.some::<A, WIDTH, 1>(step, pass, panel, row);
                        row += 1;
                    }
                }
            }
            self.write(step);
            std::mem::swap(&mut self.buffers.h, &mut self.buffers.next);
        }
    }

    #[inline(always)]
    fn some<A: Arithmetic, const WIDTH: usize, const ROWS: usize>(
        &mut self,
        step: usize,
        pass: usize,
        panel: usize,
        row: usize,
    ) {
        let (mut x, mut runs) = ([&self.x[..0]; ROWS], [false; ROWS]);
        for (at, (x, runs)) in (row..).zip(x.iter_mut().zip(&mut runs)) {
            let length = self.lengths[at];
            *runs = step < length;
            // A row that is at its end goes along with any input.
            let time = if *runs { self.places.time(length, step) } else { 0 };
            *x = &self.x[self.places.input(at, time)..][..self.places.size];
        }
        self.cell.step::<A, WIDTH, ROWS>(&Place { pass, panel, row, x, runs }, self.buffers);
    }

    #[inline(always)]
    fn write(&mut self, step: usize) {
        let Some(written) = self.written.as_deref_mut() else { return };
        let hidden = self.buffers.hidden;
        for (row, state) in self.buffers.next.chunks_exact(self.buffers.stride).enumerate() {
            let length = self.lengths[row];
            if step < length {
                let start = self.places.output(row, self.places.time(length, step)) * hidden;
                written[start..start + hidden].copy_from_slice(&state[..hidden]);
            }
        }
    }
}

impl<C: Cell> Loops for Walk<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(mut self) {
        // The width of `panels`, and as many rows as leave registers for the weights of four gates.
        if A::LANES == 16 {
            self.all::<A, 16, 4>();
        } else if A::LANES == 8 || A::LANES == 4 {
            self.all::<A, 8, 2>();
        } else {
            self.all::<A, 4, 2>();
        }
    }
}
