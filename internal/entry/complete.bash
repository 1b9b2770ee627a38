# Completion of the apps of snaps, for bash. No code of a snap runs in this shell: its
# completer runs where the app itself would, and what it answers is taken as text.
# shellcheck shell=bash

declare -gA _tenure_helpers _tenure_apps

# _tenure_completes COMMAND HELPER SNAP.APP: the completer of an app completes a command.
_tenure_completes() {
	_tenure_helpers[$1]=$2 _tenure_apps[$1]=$3
	complete -F _tenure_complete -- "$1"
}

_tenure_complete() {
	local command=${1##*/} record text until=$((SECONDS + 15)) filenames=
	local -a options=()
	COMPREPLY=()
	[[ -n ${_tenure_apps[$command]-} ]] || return
	while ((SECONDS < until && ${#COMPREPLY[@]} < 4000)) && IFS= read -r -d '' -n 4096 -t 15 record; do
		text=${record:1}
		case $record in
		obashdefault | odefault | odirnames | ofilenames | onosort | onospace | oplusdirs)
			options+=(-o "$text")
			[[ $text != filenames ]] || filenames=1
			;;
		c*)
			if _tenure_word "$text" "$filenames"; then
				COMPREPLY+=("$REPLY")
			fi
			;;
		esac
	done < <("${_tenure_helpers[$command]}" complete "${_tenure_apps[$command]}" \
		"$COMP_TYPE" "$COMP_KEY" "$COMP_POINT" "$COMP_CWORD" "$COMP_WORDBREAKS" "$COMP_LINE" "$2" "$3" \
		"${COMP_WORDS[@]}" </dev/null 2>/dev/null)
	((${#options[@]} == 0)) || compopt "${options[@]}"
}

# _tenure_word WORD FILENAMES makes of what a snap answers, in REPLY, what the shell can
# have on its line: a command, an expansion or a redirection would be run by the person who
# only wanted a word completed. Names of files bash quotes itself, but for expansions. It fails
# for what cannot be shown.
_tenure_word() {
	local plain="[^][{}()<>*?!~#\"'\`\$\\\\&|;[:cntrl:]]" quoted="'[^']*'"
	REPLY=$1
	if [[ $1 == *[[:cntrl:]\`]* ]]; then
		return 1 # A backquote quotes differently within backquotes.
	elif [[ ${COMP_WORDS[COMP_CWORD]-} == *[\"\'\`\$]* ]]; then
		# Within a quotation other rules hold.
		[[ $1 =~ ^$plain*$ ]]
	elif [[ -n $2 ]]; then
		[[ $1 != *[\`\$]* ]]
	elif [[ ! $1 =~ ^($plain|\\.|$quoted)*$ ]]; then
		printf -v REPLY %q "$1"
	fi
}
