package snapshot_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha3"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/snapshot"
)

// sealed puts a description and an archive, if there is one, into the place of the snapshot of web in set 1, with
// the digest that the description should have.
func sealed(t testing.TB, s snapshot.Store, meta, archive []byte) {
	t.Helper()
	sum := sha3.Sum384(meta)
	file, err := os.Create(s.Path(1, "web"))
	if err != nil {
		t.Fatal(err)
	}
	out := zip.NewWriter(file)
	for name, text := range map[string][]byte{
		snapshot.System: archive, "meta.json": meta, "meta.sha3_384": []byte(hex.EncodeToString(sum[:])),
	} {
		w, createErr := out.Create(name)
		if createErr == nil {
			_, createErr = w.Write(text)
		}
		err = errors.Join(err, createErr)
	}
	if err := errors.Join(err, out.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
}

// FuzzMeta has somebody who knows how the digest is made write what a snapshot says of itself: what is taken
// is of the snap and the set that it was asked for, and what it says of archives that are not there is no archive.
func FuzzMeta(f *testing.F) {
	f.Add([]byte(`{"set":1,"snap":"web","revision":"x1","sha3-384":{},"size":0}`))
	f.Add([]byte(`{"set":1,"snap":"web","sha3-384":{"user/../../etc.tgz":"00"},"owners":{"..":0}}`))
	f.Add([]byte(`{"set":1,"snap":"web","sha3-384":{"user/ann.tgz":"00"},"epoch":{"read":[0]},"conf":{"a":null}}`))
	f.Add([]byte(`{"set":2,"snap":"../web","time":"2024-02-29T01:02:03Z"}`))
	f.Fuzz(func(t *testing.T, meta []byte) {
		s := snapshot.Store{Dir: t.TempDir()}
		sealed(t, s, meta, nil)
		d, err := s.Describe(1, "web")
		if err == nil && (d.Set != 1 || d.Snap != "web") {
			t.Errorf("it is taken for that of %q in set %s", d.Snap, d.Set)
		}
		if err != nil && !errors.Is(err, snapshot.ErrBroken) {
			t.Errorf("it is not called broken: %v", err)
		}
		// Nothing has the digest of no archive but no archive.
		dir := filepath.Join(t.TempDir(), "made")
		if _, err := s.Unpack(t.Context(), 1, "web", dir, all); err == nil && len(d.Users()) > 0 {
			t.Errorf("archives of %q were unpacked, and there are none", d.Users())
		}
	})
}

// FuzzContainer finds a file as a disk, or somebody who does not know how digests are made, has left it: it is called
// broken, or what is made of it is what was saved.
func FuzzContainer(f *testing.F) {
	from := f.TempDir()
	at := func(name string) string { return filepath.Join(from, name) }
	made := []error{
		os.Mkdir(at("x1"), 0o750), os.WriteFile(at("x1/file"), []byte("text"), 0o640), os.Link(at("x1/file"), at("linked")),
		os.Symlink("x1", at("current")), os.WriteFile(at("zeros"), make([]byte, 1<<12), 0o600), os.Truncate(at("zeros"), 1<<16),
	}
	for _, name := range []string{"x1/file", "zeros", "x1"} { // Each process that fuzzes makes it, and all of them alike.
		made = append(made, os.Chtimes(at(name), time.Unix(7, 8), time.Unix(1234567890, 5)))
	}
	s := snapshot.Store{Dir: filepath.Join(f.TempDir(), "snapshots")}
	d := snapshot.Description{Set: 1, Snap: "web", Revision: tenure.LocalRevision(1), Conf: json.RawMessage(`{"a":1}`)}
	trees := map[string]string{snapshot.System: from, snapshot.UserArchive("ann"): at("x1")}
	made = append(made, s.Save(f.Context(), d, trees, func(said string) { f.Errorf("left out: %s", said) }))
	whole, err := os.ReadFile(s.Path(1, "web"))
	if err := errors.Join(append(made, err)...); err != nil {
		f.Fatal(err)
	}
	want := append(listing(f, from), listing(f, at("x1"))...)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(append(slices.Clone(whole), whole...))
	f.Add(append([]byte("#!/bin/sh\n"), whole...))
	for at := range len(whole) / 64 {
		damaged := slices.Clone(whole)
		damaged[at*64] ^= 0x41
		f.Add(damaged)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := snapshot.Store{Dir: t.TempDir()}
		if err := os.WriteFile(s.Path(1, "web"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "made")
		_, err := s.Unpack(t.Context(), 1, "web", dir, all)
		if err == nil {
			got := append(listing(t, filepath.Join(dir, snapshot.System)), listing(t, filepath.Join(dir, snapshot.UserArchive("ann")))...)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("what is made of it is not what was saved (-want +got):\n%s", diff)
			}
			return
		}
		if !errors.Is(err, snapshot.ErrBroken) {
			t.Errorf("it is not called broken: %v", err)
		}
		if _, err := os.Lstat(dir); err == nil {
			t.Error("it is broken, and something is left of it")
		}
		if err := s.Check(t.Context(), 1, "web", all); !errors.Is(err, snapshot.ErrBroken) {
			t.Errorf("it is unpacked with an error, and checked with %v", err)
		}
		found, err := s.List(0)
		if err != nil || len(found) != 1 || found[0].Set != 1 || found[0].Snap != "web" {
			t.Errorf("it is listed as %+v, %v", found, err)
		}
	})
}

// FuzzUnpack has the one who knows it write an archive: what it makes is below the directory that it is to be made in, and
// nothing is left of one that fails.
func FuzzUnpack(f *testing.F) {
	for _, headers := range [][]tar.Header{
		{{Name: "d", Typeflag: tar.TypeDir, Mode: 0o2750}, {Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o640}, {Name: "l", Typeflag: tar.TypeLink, Linkname: "d/f"}},
		{{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "../.."}, {Name: "s/beside", Typeflag: tar.TypeReg, Mode: 0o644}},
		{{Name: "../beside", Typeflag: tar.TypeReg, Mode: 0o644}},
		{{Name: "l", Typeflag: tar.TypeLink, Linkname: "../../beside"}, {Name: "p", Typeflag: tar.TypeFifo, Mode: 0o600}},
		{{Name: "p", Typeflag: tar.TypeFifo, Mode: 0o600}, {Name: "p/in", Typeflag: tar.TypeFifo, Mode: 0o600}},
		{{Name: "x", Typeflag: tar.TypeReg, Mode: 0o6755, PAXRecords: map[string]string{"SCHILY.xattr.trusted.note": "a"}}},
	} {
		var text bytes.Buffer
		w := tar.NewWriter(&text)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(text.Bytes())
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if most(text) > 1<<20 {
			return // It is as large as it says: nobody has to write that down.
		}
		var archive bytes.Buffer
		w := gzip.NewWriter(&archive)
		_, err := w.Write(text)
		sum := sha3.Sum384(nil)
		if err = errors.Join(err, w.Close()); err == nil {
			sum = sha3.Sum384(archive.Bytes())
		}
		meta, marshalErr := json.Marshal(snapshot.Description{Set: 1, Snap: "web", Digests: map[string]string{snapshot.System: hex.EncodeToString(sum[:])}})
		if err := errors.Join(err, marshalErr); err != nil {
			t.Fatal(err)
		}
		s := snapshot.Store{Dir: t.TempDir()}
		sealed(t, s, meta, archive.Bytes())
		around := t.TempDir()
		beside := filepath.Join(around, "beside")
		if err := os.WriteFile(beside, []byte("not of the snapshot"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := listing(t, around)
		dir := filepath.Join(around, "made")
		_, unpackErr := s.Unpack(t.Context(), 1, "web", dir, all)
		if _, err := os.Lstat(dir); unpackErr != nil && err == nil {
			t.Errorf("it has failed, and something is left: %v", unpackErr)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if after := listing(t, around); !slices.Equal(before, after) {
			t.Errorf("beside the directory there was %q, and is %q", before, after)
		}
	})
}

// most is the length of all that is in an archive, as far as it can be read.
func most(text []byte) (length int64) {
	in := tar.NewReader(bytes.NewReader(text))
	for {
		h, err := in.Next()
		if err != nil {
			return length
		}
		length += h.Size
		if length > 1<<20 {
			return length
		}
		if _, err := io.Copy(io.Discard, in); err != nil {
			return length
		}
	}
}
