"""The signed dossier of one revocation: its format, its verification, its page for people."""
