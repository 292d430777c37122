// A service that answers with a proverb.
package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"

	"rsc.io/quote"
)

var version = "unset"

func main() {
	show := flag.Bool("version", false, "print the version and a proverb")
	flag.Parse()
	if *show {
		fmt.Println(version, quote.Go())
		return
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, quote.Hello()) })
	fmt.Fprintln(os.Stderr, http.ListenAndServe(":8080", nil))
	os.Exit(1)
}
