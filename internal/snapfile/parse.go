package snapfile

import "errors"

// Parse checks the bytes of meta/snap.yaml and the names of the files in
// meta/hooks. Its error is an *InvalidError.
func Parse(yaml []byte, hooks []string) (*Snap, error) {
	return nil, errors.New("the parser follows in the next commit")
}
