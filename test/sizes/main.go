// Sizes prints the files, functions and packages beyond the usual size: a mirror,
// not a fence.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	fileLines    = 400
	funcLines    = 60
	packageLines = 3000
)

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, "sizes:", err)
		os.Exit(1)
	}
}

func run(root string) error {
	packages := map[string]int{}
	var lines []string
	add := func(n, limit int, what string) {
		if n > limit {
			lines = append(lines, fmt.Sprintf("%5d  %s", n, what))
		}
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			return err
		}
		n := fset.Position(f.End()).Line
		packages[filepath.Dir(path)] += n
		add(n, fileLines, path)
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok {
				first := fset.Position(fn.Pos())
				add(fset.Position(fn.End()).Line-first.Line+1, funcLines, fmt.Sprintf("%s:%d %s", path, first.Line, fn.Name.Name))
			}
		}
		return nil
	})
	for dir, n := range packages {
		add(n, packageLines, dir+"/")
	}
	slices.Sort(lines)
	for _, l := range slices.Backward(lines) {
		fmt.Println(l)
	}
	return err
}
