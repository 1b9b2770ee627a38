// Package source is the contract of a place that packages come from. Below it are
// its implementations, and sourcetest, the law that they all keep and their
// in-memory twin.
//
// What a source says is checked before anybody sees it, and what it gives is
// checked while it comes: a snap file that Fetch has written is, byte for byte, the
// one whose digest the release says, or Fetch fails. Whether the digest can be
// trusted is a matter of who can write to the source.
//
// A Source may be used by any number of goroutines at a time.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// Source is a place that packages come from.
type Source interface {
	// Releases are all that there are of one snap, by its own name, in any order. None
	// is no error.
	Releases(ctx context.Context, snap string) (Listing, error)
	// Fetch writes the snap file of a release, and never more than its size. It fails
	// with ErrGone if the release is no longer there, and with ErrDigest if the bytes
	// are not those of the release; what was written then is worth nothing.
	Fetch(ctx context.Context, r Release, to io.Writer) error
}

// Lister is a source that can say all that it has.
type Lister interface {
	All(ctx context.Context) (Listing, error)
}

// Listing is what a source has.
type Listing struct {
	Releases []Release
	// Problems are what is wrong with the rest, which counts as not there.
	Problems []error
}

// Errors that callers tell apart.
var (
	ErrGone   = errors.New("it is no longer there")
	ErrDigest = errors.New("it is not the file that its source describes")
)

// Copy writes the snap file of r from a reader, for implementations of Fetch: it is
// checked while it comes, and ends when ctx does.
func Copy(ctx context.Context, to io.Writer, from io.Reader, r Release) error {
	hash := sha256.New()
	limited := io.LimitReader(withContext{ctx, from}, r.Size)
	n, err := io.Copy(io.MultiWriter(to, hash), limited) //nolint:contextcheck // It is the context of this call.
	if err != nil {
		return fmt.Errorf("fetch %s: %w", r, err)
	}
	if sum := hex.EncodeToString(hash.Sum(nil)); n != r.Size || sum != r.Digest {
		return fmt.Errorf("fetch %s: %w: SHA-256 %s of %d bytes, and not %s of %d", r, ErrDigest, sum, n, r.Digest, r.Size)
	}
	more, err := io.ReadFull(withContext{ctx, from}, make([]byte, 1)) //nolint:contextcheck // It is the context of this call.
	switch {
	case more > 0:
		return fmt.Errorf("fetch %s: %w: it is longer than %d bytes", r, ErrDigest, r.Size)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("fetch %s: %w", r, err)
	}
	return nil
}

// withContext is a reader that fails when its context ends.
type withContext struct {
	ctx context.Context //nolint:containedctx // It lives as long as one call of Copy.
	io.Reader
}

func (r withContext) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(b)
}
