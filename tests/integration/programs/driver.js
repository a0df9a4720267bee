// A device under JavaScript that becomes hot and is compiled; WebAssembly whose accesses beyond its memory are found by
// SIGSEGV; threads; a child.
"use strict";
const { Worker, isMainThread, workerData, parentPort } = require("node:worker_threads");
const { execFileSync } = require("node:child_process");
const map = require("./addon.node");

// (module (memory 1) (func (export "look") (param i32) (result i32) local.get 0 i32.load))
const code = Uint8Array.of(
    0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 127, 1, 127, 3, 2, 1, 0, 5, 3, 1, 0, 1, 7, 8, 1, 4, 108, 111, 111, 107, 0,
    0, 10, 9, 1, 7, 0, 32, 0, 40, 2, 0, 11);
const { look } = new WebAssembly.Instance(new WebAssembly.Module(code)).exports;

function work(id) {
    const device = new Uint32Array(map("device"), 1024 * id, 256);
    let caught = 0;
    for (let turn = 1; turn <= 5000; turn++) {
        device[turn % 8] = device[turn % 8] + turn;
        try {
            look(turn % 4 ? 0 : 1 << 20);
        } catch (error) {
            caught += error instanceof WebAssembly.RuntimeError;
            device[8] = caught;
        }
    }
    return `${device.slice(0, 9)} ${caught}`;
}

if (isMainThread) {
    const workers = [1, 2].map(id => new Worker(__filename, { workerData: id }));
    const said = workers.map(worker => new Promise((done, failed) => worker.on("message", done).on("error", failed)));
    console.log(work(0));
    Promise.all(said).then(lines => {
        console.log(lines.join("\n"));
        console.log(execFileSync("expr", ["6", "*", "7"]).toString());
    });
} else {
    parentPort.postMessage(work(workerData));
}
