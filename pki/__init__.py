"""Who is who: CA, identities, certificate policy, key storage, enrolment."""
