package signature

// Program is what checks signatures made with GPG. It reads a Request in JSON from
// stdin; if it ends with 1, stdout says why the image is not let in.
const Program = "cais-verify"

// Request is one requirement of the policy, and an image.
type Request struct {
	Ref      string   `json:"ref"`
	Digests  []string `json:"digests"` // of which one must be signed
	Keyrings [][]byte `json:"keyrings"`
	Identity Identity `json:"identity"`
	// ConfigDir is registries.d; Fallback the directory of signatures where that says
	// nothing.
	ConfigDir string `json:"configDir"`
	Fallback  string `json:"fallback"`
	// CAs, as PEM text, are trusted beside the system's: those of the registry.
	CAs [][]byte `json:"cas,omitempty"`
}
