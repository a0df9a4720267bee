//! Links the agent so that nothing is resolved late: a lazy binding on a trap path could wait for a lock of the dynamic loader.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,now");
}
