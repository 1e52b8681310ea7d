"""The consortium's side: services, registry, intake, approvals, builds, releases, revocation."""
