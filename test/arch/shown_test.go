package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestWhatIsShown: what docs/SECURITY.md and docs/hosts.md name as tests is there,
// and every row names some.
func TestWhatIsShown(t *testing.T) {
	tests := testNames(t)
	guest := read(t, "../vm/hosts.sh") + read(t, "../vm/vm_test.go")
	exists := func(path string) bool { _, err := os.Stat(path); return err == nil }
	code := regexp.MustCompile("`([^`]+)`")
	for _, page := range []string{"SECURITY.md", "hosts.md"} {
		rows, shown := 0, ""
		for line := range strings.Lines(read(t, "../../docs/"+page)) {
			cells := strings.Split(line, "|")
			if len(cells) < 5 || strings.HasPrefix(cells[1], "--") {
				continue
			}
			last := cells[len(cells)-2]
			if head := strings.TrimSpace(last); head == "test" || head == "shown by" {
				continue
			}
			rows++
			found := strings.Contains(last, "every script")
			for _, part := range strings.Split(last, ";") {
				kind, _, _ := strings.Cut(strings.TrimSpace(part), ":")
				for _, m := range code.FindAllStringSubmatch(part, -1) {
					word, ok := m[1], true
					switch {
					case strings.HasPrefix(word, "Test"):
						ok = tests[word]
					case strings.HasPrefix(word, "script/"), strings.HasPrefix(word, "root/"):
						ok = exists("../e2e/testdata/" + word + ".txtar")
					case strings.HasPrefix(word, "pkg/"):
						ok = exists("../../" + word)
					case kind == "guest":
						ok = strings.Contains(guest, "\n"+word+")") && strings.Contains(guest, `"`+word+`"`)
					case kind == "recorded":
						ok = exists("../../pkg/doctor/testdata/" + word + ".json")
					default:
						ok = false
					}
					if found = true; !ok {
						t.Errorf("%s names %q (%s), which is not there", page, word, kind)
					}
				}
			}
			if !found {
				t.Errorf("%s: a row without a test: %s", page, line)
			}
			shown += last
		}
		if rows < 15 {
			t.Errorf("%s: only %d rows found", page, rows)
		}
		if page == "hosts.md" { // and the guest has no part that stands for nothing
			for _, m := range regexp.MustCompile(`g\.step\("\w+", "(\w+)"\)`).FindAllStringSubmatch(guest, -1) {
				if !strings.Contains(shown, "`"+m[1]+"`") {
					t.Errorf("the guest's part %s is in no row of %s", m[1], page)
				}
			}
		}
	}
}

// TestRuntimesPage: docs/oci.md lists what the public suite excuses, and no more.
func TestRuntimesPage(t *testing.T) {
	page := read(t, "../../docs/oci.md")
	listed := map[string]string{
		"../ociconf/suite_test.go": `(?m)^\t"\w+: .*": +"(.*)",$`,
		"../ociconf/view_test.go":  `(?m)^\t\{"\w+", ".*", "(.*)"\},$`,
	}
	found := 0
	for file, line := range listed {
		for _, m := range regexp.MustCompile(line).FindAllStringSubmatch(read(t, file), -1) {
			if found++; !strings.Contains(page, "| "+m[1]+" |") {
				t.Errorf("docs/oci.md lacks what %s excuses: %s", file, m[1])
			}
		}
	}
	_, tables, _ := strings.Cut(page, "| line | why |")
	if rows := strings.Count(tables, "\n| ") - 1; found == 0 || rows != found { // one row is a head
		t.Errorf("docs/oci.md has %d rows, the suite excuses %d", rows, found)
	}
}

// testNames are the module's tests.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	decl := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, top := range []string{"../../pkg", "../../cmd", "../../test"} {
		err := filepath.WalkDir(top, func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			for _, m := range decl.FindAllStringSubmatch(read(t, path), -1) {
				names[m[1]] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
