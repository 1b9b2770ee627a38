# Runs the completer of an app, where the app would run, and prints what it answers, each word
# with a NUL behind it: options with an o before them, completions with a c.
# Arguments: the completer, SNAP.APP, what bash says of the place, and the words there.
# shellcheck shell=bash
exec 3>&1 >/dev/null 2>&1
completer=$1 app=$2 COMP_TYPE=$3 COMP_KEY=$4 COMP_POINT=$5 COMP_CWORD=$6 COMP_WORDBREAKS=$7 COMP_LINE=$8
word=$9 before=${10}
shift 10
COMP_WORDS=("$@")
declare -A options=()
export COMP_LINE COMP_POINT COMP_KEY COMP_TYPE

# There is no completion in progress for the one of bash.
compopt() {
	while (($#)); do
		case $1 in
		-o) options[$2]=1 && shift ;;
		+o) unset "options[$2]" && shift ;;
		esac
		shift
	done
}

if [[ -r /usr/share/bash-completion/bash_completion ]]; then
	# shellcheck disable=SC1091
	. /usr/share/bash-completion/bash_completion
fi
complete -r
# shellcheck disable=SC1090
. "$completer"
command=${COMP_WORDS[0]##*/}
spec=
for name in "$command" "$app" "${app#*.}" "${app%%.*}"; do
	if spec=$(complete -p "$name"); then
		break
	fi
done
[[ -n $spec ]] || spec=$(complete -p)
eval "arguments=(${spec#complete})"
generate=() COMPREPLY=() answers=()
while ((${#arguments[@]} > 1)); do
	taken=2
	case ${arguments[0]} in
	-F) function=${arguments[1]} ;;
	-C) program=${arguments[1]} ;;
	-o) compopt -o "${arguments[1]}" ;;
	-[AGWXPS]) generate+=("${arguments[@]:0:2}") ;;
	*) generate+=("${arguments[0]}") taken=1 ;;
	esac
	arguments=("${arguments[@]:taken}")
done
if [[ -n ${function-} ]]; then
	"$function" "$command" "$word" "$before"
	answers+=("${COMPREPLY[@]}")
fi
if [[ -n ${program-} ]]; then
	mapfile -t -O "${#answers[@]}" answers < <(eval "$program" '"$command" "$word" "$before"')
fi
if ((${#generate[@]} > 0)); then
	mapfile -t -O "${#answers[@]}" answers < <(compgen "${generate[@]}" -- "$word")
fi
((${#options[@]} == 0)) || printf 'o%s\0' "${!options[@]}" >&3
((${#answers[@]} == 0)) || printf 'c%s\0' "${answers[@]}" >&3
