// Command hello greets, and says from where: the app of the example package.
//
//nolint:forbidigo // The whole program is its main: it reads and ends its own process.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	fmt.Printf("Hello from revision %s in %s\n", os.Getenv("SNAP_REVISION"), os.Getenv("SNAP"))
	if len(os.Args) > 1 {
		fmt.Println(strings.Join(os.Args[1:], " "))
	}
}
