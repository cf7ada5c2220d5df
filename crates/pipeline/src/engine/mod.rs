//! From window to outputs: the engine trait, tract behind it, and the limits a model must keep before it is loaded.
