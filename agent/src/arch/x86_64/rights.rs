//! A thread's rights to the protection keys (the register PKRU), in its signal frame.
//!
//! The kernel gives a handler rights of its own, and the thread goes on with those in the frame, which are component 9 of XSAVE's
//! state (SDM volume 1, 13.5.7), in the standard format.

use super::Frame;
use super::run;
use super::vector::{PRESENT, extent};

const PKRU: u32 = 9;

/// The bit of PKRU that takes away all rights to a key (SDM volume 3, 4.6.2).
const fn denied(key: u32) -> u32 {
    1 << (2 * key)
}

impl Frame<'_> {
    /// Lets the thread, once it goes on, use what has this key. False: the frame holds no rights.
    pub fn allow(&mut self, key: u32) -> bool {
        self.change_rights(|rights| rights & !denied(key))
    }

    pub fn deny(&mut self, key: u32) -> bool {
        self.change_rights(|rights| rights | denied(key))
    }

    fn change_rights(&mut self, change: impl FnOnce(u32) -> u32) -> bool {
        let state = self.vector_state();
        if run::features(state) & (1 << PKRU) == 0 {
            return false;
        }
        // SAFETY: the frame holds the component, and XSAVE's header before it.
        unsafe {
            let present = state.add(PRESENT).cast::<u64>();
            let place = state.add(extent(PKRU).0).cast::<u32>();
            // A component that is not present is in its initial state: all rights.
            let rights = if present.read() & (1 << PKRU) == 0 { 0 } else { place.read() };
            place.write(change(rights));
            present.write(present.read() | 1 << PKRU);
        }
        true
    }
}
