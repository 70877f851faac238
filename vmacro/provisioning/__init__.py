"""Brings machines to what the inventory says, with playbooks. Ansible sets desired state only; it moves no guests."""
