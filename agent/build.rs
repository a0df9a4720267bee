//! Links the agent so that nothing is resolved late: a lazy binding on a trap path could wait for a lock of the dynamic loader. And so
//! that where it names its own functions it means its own: loaded late, it comes after libc, which has functions of these names.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,now");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic-functions");
}
