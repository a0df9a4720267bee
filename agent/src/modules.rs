pub fn prepare() {}
pub fn note(_pc: usize) {}
pub fn after_fork() {}
