"""What people read: status, report, inspection, cards, comparison."""
