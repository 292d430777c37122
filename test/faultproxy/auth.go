package faultproxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// Auth asks for a bearer token before it passes requests on, as Docker Hub
// does, and gives tokens out at /token.
type Auth struct {
	Next           http.Handler
	User, Password string // empty: tokens for everybody
	Uses           int    // how many requests a token is good for; 0: for ever
	Realm          string // where tokens are; empty: here

	mu     sync.Mutex
	tokens map[string]int
	issued int
}

// Issued returns how many tokens were given out.
func (a *Auth) Issued() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.issued
}

// ServeHTTP gives out a token, or checks one.
func (a *Auth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		a.token(w, r)
		return
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if a.valid(token) {
		a.Next.ServeHTTP(w, r)
		return
	}
	realm := a.Realm
	if realm == "" {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		realm = scheme + "://" + r.Host + "/token"
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="test",scope="repository:x:pull"`, realm))
	w.WriteHeader(http.StatusUnauthorized)
	fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
}

func (a *Auth) token(w http.ResponseWriter, r *http.Request) {
	user, password, ok := r.BasicAuth()
	if a.User != "" && (!ok || user != a.User || password != a.Password) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.issued++
	if a.tokens == nil {
		a.tokens = map[string]int{}
	}
	t := fmt.Sprintf("token-%d", a.issued)
	a.tokens[t] = a.Uses
	json.NewEncoder(w).Encode(map[string]string{"token": t})
}

func (a *Auth) valid(token string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	left, ok := a.tokens[token]
	if !ok {
		return false
	}
	if a.Uses > 0 {
		if left--; left < 0 {
			return false
		}
		a.tokens[token] = left
	}
	return true
}
