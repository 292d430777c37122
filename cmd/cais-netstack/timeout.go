package main

import (
	"context"
	"time"
)

// timeout bounds how long the container may take to answer.
func timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 10*time.Second)
}
