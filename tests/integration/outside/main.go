// Maps a file, touches it from several goroutines, and recovers from a nil dereference: Go's own SIGSEGV handling.
package main

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

func fault() (caught bool) {
	defer func() { caught = recover() != nil }()
	var nothing *uint32
	*nothing = 1
	return
}

func main() {
	file, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	memory, err := syscall.Mmap(int(file.Fd()), 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	var group sync.WaitGroup
	for worker := 0; worker < 4; worker++ {
		group.Add(1)
		go func(register *uint32) {
			defer group.Done()
			for value := uint32(1); value <= 50; value++ {
				atomic.StoreUint32(register, value)
				if atomic.LoadUint32(register) != value {
					panic("lost")
				}
			}
		}((*uint32)(unsafe.Pointer(&memory[4*worker])))
	}
	group.Wait()
	fmt.Println("recovered:", fault())
}
