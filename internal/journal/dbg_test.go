package journal
import ("testing";"os";"bytes";"errors";"fmt")
func TestDbg(t *testing.T){
	path, content := filled(t)
	for at := 0; at < len(content); at += 4096 {
		damaged := bytes.Clone(content)
		for i := range 64 { damaged[at+i] ^= 0xff }
		os.WriteFile(path, damaged, 0o600)
		db, err := Open(Config{Path: path})
		if db!=nil { e:=db.Close(); if e!=nil {fmt.Println(at/4096,"close",e)}}
		if errors.Is(err, ErrInUse) { t.Fatalf("page %d locked", at/4096)}
		if err!=nil { fmt.Println(at/4096, err) }
	}
}
